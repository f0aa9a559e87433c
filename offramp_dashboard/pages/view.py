"""What one browser shows: the nodes, the chosen ones among them, and the colours."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from nicegui import ui

from offramp.serving.access.keys import Right
from offramp_dashboard.charts.palette import DARK, LIGHT, Options, Palette
from offramp_dashboard.people import Person
from offramp_dashboard.watch import MetricsWatch, Watch

ALL = ""


class Page(Protocol):
    """A tab."""

    def refresh(self) -> None:
        """Show what is known now; called once a second while the tab is open."""


@dataclass
class View:
    """The state of one open page."""

    person: Person
    watches: Sequence[Watch]
    clouds: Sequence[MetricsWatch]
    samples: Path
    selected: str = ALL
    palette: Palette = field(default=LIGHT)
    _message: ui.notification | None = None

    @property
    def is_dark(self) -> bool:
        """Whether the browser shows the dark colours."""
        return self.palette is DARK

    @property
    def chosen(self) -> Sequence[Watch]:
        """The nodes to sum over."""
        return [watch for watch in self.watches if self.selected in (ALL, watch.address)]

    @property
    def one(self) -> Watch:
        """The node to ask; the first one if all are chosen."""
        return self.chosen[0]

    def barred(self, right: Right) -> str:
        """Why the person at the page may not do this at the node to ask; empty if they may."""
        return self.person.why_not(right, self.one.address) or ""

    def tell(self, text: str) -> None:
        """Tell the person at the page that something did not work."""
        self.be_quiet()
        self._message = ui.notification(
            text, type="negative", position="bottom", timeout=8, multi_line=True, close_button="Close"
        )

    def be_quiet(self) -> None:
        """Take back what was told last; it belongs to the tab it was told on."""
        if self._message and not self._message.is_deleted:
            self._message.dismiss()
        self._message = None


class Chart:
    """A chart with a legend beneath it that wraps where the page is narrow."""

    def __init__(self, *, has_legend: bool = True) -> None:
        self._chart = ui.echart({}).classes("chart")
        self._legend = ui.element("div").classes("legend") if has_legend else None
        self._named: list[tuple[str, str]] = []

    def show(self, options: Options) -> None:
        """Draw these options, if they have changed; each series that has a name is named in the legend."""
        show(self._chart, options)
        named = [(series["name"], series["color"]) for series in options["series"]]
        if self._legend is None or named == self._named:
            return
        self._named = named
        self._legend.clear()
        with self._legend:
            for name, colour in named:
                with ui.element("div").classes("legend-entry"):
                    ui.element("div").classes("legend-colour").style(f"background:{colour}")
                    ui.label(name)


def show(chart: ui.echart, options: Options) -> None:
    """Give a chart new options, if they have changed."""
    if chart.options != options:
        chart.options.clear()
        chart.options.update(options)
        chart.update()


def card(title: str, *, classes: str = "") -> ui.element:
    """A titled box; use it with `with`."""
    box = ui.element("section").classes(f"box {classes}")
    with box:
        ui.label(title).classes("box-title").props("role=heading aria-level=2")
    return box


def data_url(image: bytes) -> str:
    """An image as the source of an `img` element; browsers detect its format from the bytes."""
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"
