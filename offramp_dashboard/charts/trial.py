"""Charts of one answer: the probabilities, and where the time went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from offramp_dashboard.charts.palette import Options, Palette, axis, base
from offramp_dashboard.schemas import Prediction

_MOST_CLASSES = 10


@dataclass(frozen=True)
class Span:
    """A stretch of a request's time, in milliseconds from its start."""

    name: str
    start_ms: float
    length_ms: float
    inside: bool = False


def spans(prediction: Prediction) -> list[Span]:
    """One after the other: decoding, the blocks of the edge, the offload and what it is made of.

    A tier measures lengths only. Those of upstream tiers are put in the middle of the offload, as if
    there and back took equally long; what no stage claims comes last.
    """
    timings = prediction.timings_ms
    found = [Span("decode", 0.0, timings.decode), Span("edge compute", timings.decode, timings.edge_compute)]
    at = timings.decode + timings.edge_compute
    if timings.offload:
        found.append(Span("offload", at, timings.offload))
        known = sum(tier.queue + tier.compute for tier in prediction.upstream_ms)
        inner = at + max(0.0, timings.offload - known) / 2
        for tier in prediction.upstream_ms:
            found.append(Span(f"{tier.tier} queue", inner, tier.queue, inside=True))
            found.append(Span(f"{tier.tier} compute", inner + tier.queue, tier.compute, inside=True))
            inner += tier.queue + tier.compute
        at += timings.offload
    found.append(Span("the rest", at, max(0.0, timings.total - at)))
    return found


def waterfall(prediction: Prediction, palette: Palette) -> Options:
    """Bars from the start of each stage to its end."""
    rows = spans(prediction)
    options = base(palette, ", ".join(f"{row.name} {row.length_ms:.2f} ms" for row in rows))
    options["grid"]["top"] = 4
    options["tooltip"] |= {"trigger": "item", ":valueFormatter": "(v) => v.toFixed(3) + ' ms'"}
    options["xAxis"] = axis(palette, "value", min=0, axisLabel={"formatter": "{value} ms"}, splitNumber=4)
    options["yAxis"] = axis(palette, "category", inverse=True, data=[row.name for row in rows],
                            axisLabel={"color": palette.text, "hideOverlap": False, "interval": 0})  # fmt: skip
    options["series"] = [_until_they_start(rows), _bars(rows, palette)]
    # A label to the right of the last bar needs room.
    options["grid"]["right"] = 72
    return options


def _until_they_start(rows: Sequence[Span]) -> Options:
    # Nothing is seen of these bars: each pushes the one that is stacked on it to where its stage starts.
    return {
        "type": "bar",
        "stack": "time",
        "silent": True,
        "itemStyle": {"color": "transparent"},
        "data": [row.start_ms for row in rows],
    }


def _bars(rows: Sequence[Span], palette: Palette) -> Options:
    colours = {"decode": palette.exits[1], "edge compute": palette.exits[0], "offload": palette.final}
    return {
        "type": "bar",
        "stack": "time",
        "name": "took",
        "barMaxWidth": 16,
        "barMinHeight": 2,
        "label": {
            "show": True,
            "position": "right",
            "color": palette.muted,
            ":formatter": "(p) => p.value.toFixed(2) + ' ms'",
        },
        "data": [
            {
                "value": row.length_ms,
                # What lies inside the offload is drawn as an outline.
                "itemStyle": {"color": "transparent", "borderColor": palette.final, "borderWidth": 2}
                if row.inside
                else {"color": colours.get(row.name, palette.muted), "borderRadius": 2},
            }
            for row in rows
        ],
    }


def probabilities(prediction: Prediction, palette: Palette) -> Options:
    """The likeliest classes as bars, the answer in the colour of its exit."""
    ranked = sorted(prediction.probabilities.items(), key=lambda pair: -pair[1])[:_MOST_CLASSES]
    options = base(palette, ", ".join(f"{name} {value:.1%}" for name, value in ranked))
    options["grid"] |= {"top": 4, "right": 64}
    options["tooltip"]["show"] = False
    options["xAxis"] = axis(palette, "value", min=0, max=1, show=False)
    options["yAxis"] = axis(palette, "category", inverse=True, data=[name for name, _ in ranked],
                            axisLabel={"color": palette.text, "hideOverlap": False, "interval": 0})  # fmt: skip
    options["series"] = [
        {
            "type": "bar",
            "barMaxWidth": 16,
            "showBackground": True,
            "backgroundStyle": {"color": palette.line, "opacity": 0.5, "borderRadius": 2},
            "label": {
                "show": True,
                "position": "right",
                ":formatter": "(p) => (100 * p.value).toFixed(1) + ' %'",
                "color": palette.text,
            },
            "data": [
                {
                    "value": value,
                    "itemStyle": {
                        "color": palette.exit(prediction.exit.name)
                        if name == prediction.label
                        else palette.muted,
                        "borderRadius": 2,
                    },
                }
                for name, value in ranked
            ],
        }
    ]
    return options
