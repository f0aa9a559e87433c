"""Charts of the last minutes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from offramp_dashboard.charts.palette import Options, Palette, axis, base
from offramp_dashboard.figures import Leaving, latency_of, leavings, photo_bytes, uplink_bytes_by_form
from offramp_dashboard.history import Bin
from offramp_dashboard.rates import Increments, by_labels
from offramp_dashboard.words import sent_as

_P95 = 1
_TOP_MS = 5000.0  # the histogram's last finite bound


def shares(bins: Sequence[Bin], palette: Palette) -> Options:
    """Where the samples left, as shares stacked to a hundred per cent."""
    counted = [leavings(one.gained or {}) for one in bins]
    keys = sorted({key for row in counted for key in row})
    series = [
        _line(
            key.name,
            palette.degraded if key.degraded else palette.exit(key.exit),
            [
                [one.at * 1000, _share(row.get(key, 0.0), sum(row.values()))]
                for one, row in zip(bins, counted, strict=True)
            ],
        )
        # Of several edges, one may run on its own the exit that another one leaves to its upstream.
        | {"areaStyle": {"opacity": 0.45 if at and _twin(keys[at - 1], key) else 0.8}}
        | {"stack": "all", "lineStyle": {"width": 0}}
        for at, key in enumerate(keys)
    ]
    return _over_time(
        palette, series, bins, "(v) => v == null ? '–' : v.toFixed(1) + ' %'", unit="%", top=100
    )


def rate(bins: Sequence[Bin], palette: Palette) -> Options:
    """Photos answered in a second."""
    data = [[one.at * 1000, one.samples_per_s] for one in bins]
    series = [_line("photos/s", palette.accent, data) | {"areaStyle": {"opacity": 0.15}}]
    return _over_time(palette, series, bins, "(v) => v == null ? '–' : v.toFixed(1)")


def latency(bins: Sequence[Bin], palette: Palette) -> Options:
    """The 95th percentile of every exit."""
    exits = sorted(
        {
            exit
            for one in bins
            for (exit,) in by_labels(one.gained or {}, "offramp_sample_seconds_count", "exit")
        }
    )

    def p95(gained: Increments, exit: str) -> float | None:
        found = latency_of(gained, exit)[_P95]
        return found if found is None or math.isfinite(found) else _TOP_MS

    series = [
        _line(exit, palette.exit(exit), [[one.at * 1000, p95(one.gained or {}, exit)] for one in bins])
        | {"connectNulls": True}
        for exit in exits
    ]
    options = _over_time(
        palette, series, bins, "(v) => v == null ? '–' : v.toPrecision(3) + ' ms'", unit="ms"
    )
    # A single slow second would press all others flat.
    options["yAxis"] |= {"type": "log", "min": None}
    return options


def traffic(bins: Sequence[Bin], palette: Palette) -> Options:
    """Bytes sent upstream for each photo, by the form they were sent in, beside what sending every photo would take."""

    def line(name: str, colour: str, data: Sequence[float | None]) -> Options:
        points: list[list[float | None]] = [
            [one.at * 1000, value] for one, value in zip(bins, data, strict=True)
        ]
        return _line(name, colour, points) | {"connectNulls": True}

    sent = [uplink_bytes_by_form(one.gained or {}) for one in bins]
    photos = [photo_bytes(one.gained or {}) for one in bins]
    series = []
    for form in sorted({form for row in sent for form in row}):
        # A second without photos has no figure; one in which nothing was sent in this form has 0.
        data = [
            None if photo is None else row.get(form, 0.0) for row, photo in zip(sent, photos, strict=True)
        ]
        stacked = {"areaStyle": {"opacity": 0.35}, "stack": "sent"}
        series.append(line(sent_as(form), palette.form(form), data) | stacked)
    series.append(
        line("if every photo were sent", palette.muted, photos)
        | {"lineStyle": {"type": "dashed", "width": 2}}
    )
    return _over_time(palette, series, bins, "(v) => v == null ? '–' : Math.round(v) + ' B'", unit="B")


def _twin(before: Leaving, key: Leaving) -> bool:
    return before.exit == key.exit and before.degraded == key.degraded


def _share(part: float, whole: float) -> float | None:
    return round(100 * part / whole, 2) if whole else None


def _line(name: str, colour: str, data: list[list[float | None]]) -> Options:
    return {
        "type": "line",
        "name": name,
        "data": data,
        "color": colour,
        "showSymbol": False,
        "lineStyle": {"width": 2},
    }


def _over_time(
    palette: Palette,
    series: list[Options],
    bins: Sequence[Bin],
    shown: str,
    *,
    unit: str = "",
    top: float | None = None,
) -> Options:
    options = base(palette, "over time: " + ", ".join(line["name"] for line in series))
    options["tooltip"][":valueFormatter"] = shown
    options["xAxis"] = axis(
        palette, "time", min=bins[0].at * 1000, max=bins[-1].at * 1000, splitNumber=4,
        axisLabel={"formatter": "{HH}:{mm}:{ss}", "margin": 12, "showMinLabel": False, "showMaxLabel": False},
    )  # fmt: skip
    options["yAxis"] = axis(
        palette, "value", min=0, splitNumber=4, axisLabel={"formatter": f"{{value}} {unit}"}
    )
    if top is not None:
        options["yAxis"] |= {"max": top, "interval": top / 4}
    options["series"] = series
    return options
