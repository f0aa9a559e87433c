"""The operating points of a bundle: accuracy against what it costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

from offramp.bundle import Manifest, OperatingPoint
from offramp.bundle.manifest import Measured
from offramp_dashboard.charts.palette import Options, Palette, axis, base
from offramp_dashboard.figures import exit_shares, uplink_bytes
from offramp_dashboard.rates import Increments

Cost = Literal["MACs", "milliseconds", "bytes sent"]
COSTS: tuple[Cost, ...] = get_args(Cost)
_COST_OF: dict[Cost, Callable[[Measured], float | None]] = {
    "MACs": lambda measured: measured.macs_mean,
    "milliseconds": lambda measured: measured.ms_mean,
    "bytes sent": lambda measured: measured.request_bytes_mean,
}
# Distances of the lines across an axis of accuracies, in per cent.
_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 25)


def cost_of(point: OperatingPoint, cost: Cost) -> float | None:
    """What a sample costs there on average; None if it was not measured."""
    return _COST_OF[cost](point.measured) if point.measured else None


def costs_known(points: Sequence[OperatingPoint]) -> list[Cost]:
    """Those costs that were measured at one point at least."""
    return [cost for cost in COSTS if any(cost_of(point, cost) is not None for point in points)]


def cost_here(cost: Cost, manifest: Manifest, gained: Increments) -> float | None:
    """What a sample cost at a node that gained this; None without samples, or for what its counters do not tell."""
    if cost == "bytes sent":
        return uplink_bytes(gained)
    shares = exit_shares(gained)
    if cost != "MACs" or not shares:
        return None
    macs = dict(zip(manifest.exit_names, manifest.exit_macs, strict=True))
    return sum(share * macs.get(exit, 0) for exit, share in shares.items())


def frontier(
    points: Sequence[OperatingPoint],
    cost: Cost,
    current: str | None,
    palette: Palette,
    *,
    by_hand: float | None = None,
) -> Options:
    """Accuracy against a cost, the point in force marked.

    by_hand: what a sample costs under θ set by hand, drawn as a line, since nobody has measured its accuracy.
    """
    known = sorted(
        (x, 100 * point.measured.accuracy, point.name)
        for point in points
        if point.measured and (x := cost_of(point, cost)) is not None
    )
    options = base(palette, f"accuracy of the operating points against {cost}; the table has the figures")
    options["grid"] |= {"top": 32, "bottom": 28, "right": 132}
    # Names of points are plain words by the manifest's own rule, so nothing needs to be escaped.
    options["tooltip"] |= {
        "trigger": "item",
        ":formatter": "(p) => p.name + '<br>' + p.value[1].toFixed(2) + ' % at ' "
        "+ (p.value[0] >= 1000 ? Math.round(p.value[0]).toLocaleString() : p.value[0].toPrecision(3))",
    }
    options["xAxis"] = axis(
        palette, "value", scale=True, name=f"{cost} for a sample", nameLocation="middle", nameGap=28,
        splitNumber=4,
        axisLabel={":formatter": "(v) => v >= 1e6 ? v / 1e6 + ' M' : v >= 1e3 ? v / 1e3 + ' k' : v"},
    )  # fmt: skip
    options["yAxis"] = axis(
        palette,
        "value",
        axisLabel={"formatter": "{value} %"},
        **_ends([y for _, y, _ in known]),
    )
    options["series"] = [_line(known, palette), _dots(known, current, palette)]
    if by_hand is not None:
        options["series"].append(_by_hand(by_hand, known, palette))
    return options


def _ends(accuracies: Sequence[float]) -> Options:
    """Where an axis of accuracies, in per cent, begins and ends: at round numbers, and never beyond 100 %."""
    if not accuracies:
        return {"min": 0, "max": 100}
    low, high = min(accuracies), max(accuracies)
    step = next((step for step in _STEPS if (high - low) / step <= 4), _STEPS[-1])
    return {
        "min": max(0.0, round(step * math.floor(low / step), 2)),
        "max": min(100.0, round(step * math.ceil(high / step + 0.1), 2)),
        "interval": step,
    }


def _by_hand(cost: float, known: Sequence[tuple[float, float, str]], palette: Palette) -> Options:
    # A line alone would not widen the axis: an unseen point at its foot does.
    foot = min((y for _, y, _ in known), default=0.0)
    return {
        "type": "scatter",
        "name": "θ by hand",
        "silent": True,
        "symbolSize": 0,
        "data": [[cost, foot]],
        "markLine": {
            "silent": True,
            "symbol": "none",
            "lineStyle": {"color": palette.final, "type": "dashed", "width": 2},
            "label": {"formatter": "θ by hand, here", "color": palette.text, "fontSize": 13},
            "data": [{"xAxis": cost}],
        },
    }


def _line(known: Sequence[tuple[float, float, str]], palette: Palette) -> Options:
    return {
        "type": "line",
        "silent": True,
        "data": _undominated([(x, y) for x, y, _ in known]),
        "showSymbol": False,
        "lineStyle": {"color": palette.accent, "width": 2, "opacity": 0.45},
    }


def _dots(known: Sequence[tuple[float, float, str]], current: str | None, palette: Palette) -> Options:
    return {
        "type": "scatter",
        "data": [_dot(x, y, name, palette, in_force=name == current) for x, y, name in known],
        "label": {
            "show": True,
            "formatter": "{b}",
            "position": "right",
            "lineHeight": 17,
            "minMargin": 2,
            "padding": [0, 0, 0, 4],
            "color": palette.text,
            "fontSize": 13,
        },
        # The names stand in a column beside the chart, moved apart where they would lie over one another.
        ":labelLayout": "(p) => ({x: (document.querySelector('.chart.tall')?.clientWidth ?? 400) - 118, "
        "y: p.rect.y + p.rect.height / 2, moveOverlap: 'shiftY'})",
        "labelLine": {"show": True, "length2": 4, "lineStyle": {"color": palette.muted, "opacity": 0.5}},
    }


def _dot(x: float, y: float, name: str, palette: Palette, *, in_force: bool) -> Options:
    return {
        "name": name,
        "value": [x, y],
        "symbolSize": 20 if in_force else 12,
        # Above its neighbours.
        "z": 4 if in_force else 3,
        "itemStyle": {
            "color": palette.final if in_force else palette.accent,
            "borderColor": palette.surface,
            "borderWidth": 2,
            "opacity": 1,
        },
        "label": {"fontWeight": "bold" if in_force else "normal"},
    }


def _undominated(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    # Rising cost: a point belongs to the frontier if none that costs less is as accurate.
    best: list[tuple[float, float]] = []
    for x, y in points:
        if not best or y > best[-1][1]:
            best.append((x, y))
    return best
