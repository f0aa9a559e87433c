"""The edge nodes, one row each, if the dashboard watches several."""

from __future__ import annotations

from nicegui import ui

from offramp_dashboard.figures import latency_of, leavings, share_on, uplink_bytes
from offramp_dashboard.history import SAMPLES
from offramp_dashboard.pages.view import View, card
from offramp_dashboard.rates import summed, total
from offramp_dashboard.watch import Watch, steps_lately
from offramp_dashboard.words import ABSENT, data_bytes, milliseconds, number, percent

_HEADINGS = (
    "edge",
    "photos per second",
    "answered there",
    "sent per photo",
    "95 % within",
    "degraded",
    "upstream",
)


class EdgesCard:
    """A table of the edge nodes; shows nothing if there is only one."""

    def __init__(self, view: View) -> None:
        self._rows: list[tuple[Watch, list[ui.label]]] = []
        if len(view.watches) < 2:
            return
        with card("Edge nodes", classes="whole"), _scrolling(), ui.element("table").classes("rows"):
            with ui.element("thead"), ui.element("tr"):
                for heading in _HEADINGS:
                    _cell("th", heading).props("scope=col")
            with ui.element("tbody"):
                self._rows = [(watch, _row()) for watch in view.watches]

    def refresh(self, seconds: int) -> None:
        """Show the last `seconds` seconds of every edge node, whichever is chosen."""
        for watch, cells in self._rows:
            for cell, text in zip(cells, _figures(watch, seconds), strict=True):
                cell.text = text


def _scrolling() -> ui.element:
    # What scrolls on a phone has to be in reach of the keyboard.
    return ui.element("div").classes("scroll").props('tabindex=0 role=region aria-label="edge nodes"')


def _row() -> list[ui.label]:
    labels = []
    with ui.element("tr"):
        for at in range(len(_HEADINGS)):
            with _cell("td" if at else "th", "").props("" if at else "scope=row"):
                labels.append(ui.label())
    return labels


def _cell(tag: str, text: str) -> ui.element:
    cell = ui.element(tag)
    if text:
        with cell:
            ui.label(text)
    return cell


def _figures(watch: Watch, seconds: int) -> tuple[str, ...]:
    steps = steps_lately(watch, seconds)
    gained = summed(step.gained for step in steps)
    samples = total(gained, SAMPLES)
    lasted = sum(step.seconds for step in steps)
    degraded = sum(count for key, count in leavings(gained).items() if key.degraded)
    return (
        watch.name,
        number(samples / lasted if lasted else None),
        percent(share_on(gained, watch.own_tiers)),
        data_bytes(uplink_bytes(gained)),
        milliseconds(latency_of(gained)[1]),
        percent(degraded / samples if samples else None),
        _upstream_of(watch),
    )


def _upstream_of(watch: Watch) -> str:
    if watch.fault:
        return "this edge cannot be read"
    if watch.readiness is None:
        return ABSENT
    upstream = watch.readiness.upstream
    if upstream is None:
        return "none"
    return "up" if upstream.up else f"down: {upstream.reason or 'no reason given'}"
