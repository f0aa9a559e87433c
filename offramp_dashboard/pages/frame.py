"""The page around the tabs: the choice of node and colours, and faults of nodes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from nicegui import Client, events, ui

from offramp.serving.access.keys import Right
from offramp_dashboard.charts.palette import DARK, LIGHT
from offramp_dashboard.pages.live import LivePage
from offramp_dashboard.pages.network import NetworkPage
from offramp_dashboard.pages.tradeoff import TradeoffPage
from offramp_dashboard.pages.trial import TrialPage
from offramp_dashboard.pages.view import ALL, Page, View
from offramp_dashboard.people import People, Person
from offramp_dashboard.sign_in import PATH
from offramp_dashboard.watch import MetricsWatch, Watch

_TABS: dict[str, Callable[[View], Page]] = {
    "Live": LivePage,
    "Try it": TrialPage,
    "Trade-off": TradeoffPage,
    "Network": NetworkPage,
}
_EVERY_S = 1.0
_LEAVING_S = 3.0
_STATIC = Path(__file__).parent.parent / "static"
# For each scheme: the next one, its own icon, and whether it is dark. None follows the system.
_SCHEMES: dict[str, tuple[str, str, bool | None]] = {
    "system": ("light", "brightness_auto", None),
    "light": ("dark", "light_mode", False),
    "dark": ("system", "dark_mode", True),
}


class Frame:
    """One open page."""

    def __init__(
        self,
        people: People,
        person: Person,
        watches: Sequence[Watch],
        clouds: Sequence[MetricsWatch],
        samples: Path,
    ) -> None:
        """Show `person` the nodes that they may watch."""
        self._people = people
        ui.add_css((_STATIC / "dashboard.css").read_text())
        ui.add_head_html(f"<script>{(_STATIC / 'sketch.js').read_text()}</script>")
        watches = [watch for watch in watches if person.may(Right.WATCH, watch.address)]
        self._view = View(
            person, watches, clouds, samples, selected=ALL if len(watches) > 1 else watches[0].address
        )
        self._dark = ui.dark_mode(None)
        self._scheme = "system"
        self._pages: dict[str, Page] = {}
        self._header()
        with ui.element("div").classes("main"):
            self._faults = ui.element("div").classes("faults").props("role=alert")
            self._shown_faults: list[str] = []
            self._note = ui.label().classes("muted small note")
            with ui.tab_panels(self._tabs, value="Live", animated=False, on_change=self._tab_changed).classes(
                "panels"
            ):
                self._panels = {name: ui.tab_panel(name).classes("panel") for name in _TABS}
        ui.on("scheme", self._scheme_changed)
        self.refresh()
        self._timer = ui.timer(_EVERY_S, self.refresh)

    async def connected(self) -> None:
        """Once the browser is connected, make the other tabs, and ask which colours it shows."""
        for name in _TABS:
            self._page(name)
        told = await ui.run_javascript("offrampScheme.watch()", timeout=10)
        if isinstance(told, dict):
            self._paint(dark=bool(told.get("dark")))
            if told.get("kept") in _SCHEMES:
                self._use(str(told["kept"]))

    def refresh(self) -> None:
        """Show what is known now on the open tab, as long as the person may see it."""
        if self._people.is_over(self._view.person):
            self._end()
            return
        self._show_faults()
        name = str(self._tabs.value or "Live")
        several = len(self._view.watches) > 1 and self._view.selected == ALL
        self._note.visible = several and name != "Live"
        self._note.text = (
            f"This tab shows one edge, the first: {self._view.one.name}. Choose another one above."
        )
        self._page(name).refresh()

    def _end(self) -> None:
        self._timer.deactivate()
        ui.navigate.to(PATH)
        # A browser that does not follow gets nothing more either.
        asyncio.get_running_loop().call_later(_LEAVING_S, _close, ui.context.client)

    def _sign_out(self) -> None:
        self._people.leave(self._view.person)
        self._end()

    def _page(self, name: str) -> Page:
        # Made when it is first opened, or once the browser is connected: many a page is fetched by no browser.
        if name not in self._pages:
            with self._panels[name]:
                self._pages[name] = _TABS[name](self._view)
        return self._pages[name]

    def _header(self) -> None:
        with ui.header().classes("header"):
            ui.label("Offramp").classes("brand").props("role=heading aria-level=1")
            with (
                ui.tabs()
                .props("no-caps inline-label dense shrink outside-arrows mobile-arrows")
                .classes("tabs") as self._tabs
            ):
                for name in _TABS:
                    ui.tab(name)
            ui.space()
            watches = self._view.watches
            if len(watches) > 1:
                names = {ALL: f"all {len(watches)} edges"} | {watch.address: watch.name for watch in watches}
                ui.select(names, value=ALL, on_change=self._selected).props(
                    'dense outlined options-dense aria-label="edge node"'
                ).classes("selector")
            else:
                ui.label(watches[0].name).classes("muted small address")
            if self._view.person.name is not None:
                ui.label(self._view.person.name).classes("muted small address")
                ui.button("Sign out", on_click=self._sign_out).props("flat dense no-caps").classes("switch")
            self._switch = (
                ui.button(icon="brightness_auto", on_click=self._switched)
                .props('flat round dense aria-label="colours: follow the system"')
                .classes("switch")
            )

    def _show_faults(self) -> None:
        texts = [_fault_of(watch) for watch in (*self._view.chosen, *self._view.clouds) if watch.fault]
        if texts == self._shown_faults:
            return
        self._shown_faults = texts
        self._faults.clear()
        with self._faults:
            for text in texts:
                ui.label(text).classes("box fault")

    def _tab_changed(self) -> None:
        self._view.be_quiet()
        # The previous tab may have been longer.
        ui.run_javascript("window.scrollTo(0, 0)")
        self.refresh()

    def _selected(self, event: events.ValueChangeEventArguments[str]) -> None:
        self._view.selected = event.value
        self.refresh()

    def _switched(self) -> None:
        self._use(_SCHEMES[self._scheme][0])
        ui.run_javascript(f"offrampScheme.keep('{self._scheme}')")

    def _use(self, scheme: str) -> None:
        self._scheme = scheme
        _, icon, dark = _SCHEMES[scheme]
        self._dark.value = dark
        self._switch.icon = icon
        self._switch.props(f'aria-label="colours: {"follow the system" if dark is None else scheme}"')

    def _scheme_changed(self, event: events.GenericEventArguments) -> None:
        self._paint(dark=bool(event.args))

    def _paint(self, *, dark: bool) -> None:
        self._view.palette = DARK if dark else LIGHT
        self.refresh()


def _close(client: Client) -> None:
    if not client.is_deleted:
        client.delete()


def _fault_of(watch: MetricsWatch) -> str:
    fault = watch.fault if watch.address in str(watch.fault) else f"{watch.name}: {watch.fault}"
    if watch.read_at is None:
        return f"{fault}. It has never been read."
    ago = int(time.time() - watch.read_at)
    return f"{fault}. Figures are {ago} s old; the dashboard keeps trying."
