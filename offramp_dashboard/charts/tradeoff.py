"""The operating points of a bundle: accuracy against what it costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

from offramp.bundle import OperatingPoint
from offramp.bundle.manifest import Measured
from offramp_dashboard.charts.palette import Options, Palette, axis, base

Cost = Literal["MACs", "milliseconds", "request bytes"]
COSTS: tuple[Cost, ...] = get_args(Cost)
_COST_OF: dict[Cost, Callable[[Measured], float | None]] = {
    "MACs": lambda measured: measured.macs_mean,
    "milliseconds": lambda measured: measured.ms_mean,
    "request bytes": lambda measured: measured.request_bytes_mean,
}


def cost_of(point: OperatingPoint, cost: Cost) -> float | None:
    """What a sample costs there on average; None if it was not measured."""
    return _COST_OF[cost](point.measured) if point.measured else None


def costs_known(points: Sequence[OperatingPoint]) -> list[Cost]:
    """Those costs that were measured at one point at least."""
    return [cost for cost in COSTS if any(cost_of(point, cost) is not None for point in points)]


def frontier(points: Sequence[OperatingPoint], cost: Cost, current: str | None, palette: Palette) -> Options:
    """Accuracy against a cost, the point in force marked."""
    known = sorted(
        (x, 100 * point.measured.accuracy, point.name)
        for point in points
        if point.measured and (x := cost_of(point, cost)) is not None
    )
    options = base(palette, f"accuracy of the operating points against {cost}; the table has the figures")
    options["legend"] = {"show": False}
    options["grid"] |= {"top": 28, "bottom": 28, "right": 64}
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
        palette, "value", scale=True, axisLabel={"formatter": "{value} %"}, name="accuracy"
    )
    options["series"] = [_line(known, palette), _dots(known, current, palette)]
    return options


def _line(known: Sequence[tuple[float, float, str]], palette: Palette) -> Options:
    return {
        "type": "line",
        "silent": True,
        "data": _undominated([(x, y) for x, y, _ in known]),
        "showSymbol": False,
        "lineStyle": {"color": palette.accent, "width": 2, "opacity": 0.45},
    }


def _dots(known: Sequence[tuple[float, float, str]], current: str | None, palette: Palette) -> Options:
    named = _named(known, current)
    return {
        "type": "scatter",
        "data": [
            _dot(x, y, name, palette, in_force=name == current, named=name in named) for x, y, name in known
        ],
        "label": {
            "show": True,
            "formatter": "{b}",
            "position": "right",
            "color": palette.text,
            "fontSize": 13,
        },
    }


def _dot(x: float, y: float, name: str, palette: Palette, *, in_force: bool, named: bool) -> Options:
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
        "label": {"show": named, "fontWeight": "bold" if in_force else "normal"},
    }


def _undominated(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    # Rising cost: a point belongs to the frontier if none that costs less is as accurate.
    best: list[tuple[float, float]] = []
    for x, y in points:
        if not best or y > best[-1][1]:
            best.append((x, y))
    return best


def _named(known: Sequence[tuple[float, float, str]], current: str | None) -> set[str]:
    # Names that would lie over one another are left to the table; the point in force comes first, then the
    # cheapest and the dearest. Sizes of a name are shares of the chart's sides, as on a phone.
    if not known:
        return set()
    wide = max(x for x, _, _ in known) - known[0][0] or 1.0
    high = max(y for _, y, _ in known) - min(y for _, y, _ in known) or 1.0
    ranked = sorted(known, key=lambda point: (point[2] != current, point not in (known[0], known[-1])))
    placed: list[tuple[float, float, str]] = []
    for x, y, name in ranked:
        hides_name = any(abs(x - a) / wide < 0.3 and abs(y - b) / high < 0.08 for a, b, _ in placed)
        hides_dot = any(0 < (a - x) / wide < 0.2 and abs(y - b) / high < 0.05 for a, b, _ in known)
        if name == current or not (hides_name or hides_dot):
            placed.append((x, y, name))
    return {name for _, _, name in placed}
