"""The operating points as a table; each row is a button that chooses its point."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from nicegui import ui

from offramp.bundle import OperatingPoint
from offramp_dashboard.charts.tradeoff import cost_of, costs_known
from offramp_dashboard.words import ABSENT, data_bytes, milliseconds, number, percent


class PointsTable:
    """Names, θ and measured figures; only costs that are known are shown. θ set by hand have a row of their own."""

    def __init__(self, points: Sequence[OperatingPoint], choose: Callable[[str], Awaitable[None]]) -> None:
        known = costs_known(points)
        columns: dict[str, Callable[[OperatingPoint], str]] = {
            "name": lambda point: point.name,
            "accuracy": lambda point: f"{100 * point.measured.accuracy:.2f} %" if point.measured else ABSENT,
            "MACs": lambda point: number(cost_of(point, "MACs")),
        }
        columns["offloaded"] = lambda point: percent(point.measured.offload_rate if point.measured else None)
        if "milliseconds" in known:
            columns["computing"] = lambda point: milliseconds(cost_of(point, "milliseconds"))
        if "bytes sent" in known:
            columns["sent"] = lambda point: data_bytes(cost_of(point, "bytes sent"))
        # Last, because a phone shows only the first columns and deep networks have many θ.
        columns["θ"] = lambda point: _listed(point.thetas)
        self._rows: dict[str, ui.element] = {}
        widths = (
            f"grid-template-columns: minmax(var(--name), 1.4fr) repeat({len(columns) - 2}, minmax(var(--figure), 1fr)) "
            "minmax(max-content, 1.4fr)"
        )
        with ui.element("div").classes("scroll"), ui.element("div").classes("points").style(widths):
            with ui.element("div").classes("point head"):
                for heading in columns:
                    ui.label(heading)
            for point in points:
                self._row(point, [cell(point) for cell in columns.values()], choose)
            self._by_hand = ui.element("div").classes("point chosen by-hand")
            with self._by_hand:
                self._own = {heading: ui.label(ABSENT) for heading in columns}

    def mark(self, current: str | None) -> None:
        """Show which point is in force; None if θ was set by hand."""
        self._by_hand.visible = current is None
        for name, row in self._rows.items():
            chosen = name == current
            row.classes(add="chosen" if chosen else "", remove="" if chosen else "chosen")
            row.props(f"aria-pressed={'true' if chosen else 'false'}")

    def enable(self, enabled: bool) -> None:
        """Let rows be chosen, or not."""
        for row in self._rows.values():
            if row.props.get("disabled", False) == enabled:
                row.props["disabled"] = not enabled
                row.update()

    def by_hand(self, thetas: Sequence[float], **measured: str) -> None:
        """Fill the row of θ set by hand, with what was measured at the node; its accuracy is not known."""
        texts = {"name": "θ by hand, here", "θ": _listed(thetas), **measured}
        for heading, text in texts.items():
            if heading in self._own:
                self._own[heading].text = text

    def _row(
        self, point: OperatingPoint, cells: Sequence[str], choose: Callable[[str], Awaitable[None]]
    ) -> None:
        row = ui.element("button").classes("point").props("type=button")
        row.on("click", lambda: choose(point.name))
        self._rows[point.name] = row
        with row:
            for cell in cells:
                ui.label(cell)


def _listed(thetas: Sequence[float]) -> str:
    return " ".join(f"{theta:.3f}" for theta in thetas)
