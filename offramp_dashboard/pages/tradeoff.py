"""The tab *Trade-off*: the operating points of the bundle, and θ by hand."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from nicegui import events, ui

from offramp.bundle import Manifest, OperatingPoint
from offramp.serving.access.keys import Right
from offramp_dashboard.charts.tradeoff import Cost, cost_here, costs_known, frontier
from offramp_dashboard.figures import exit_shares, payloads, share_on, uplink_bytes
from offramp_dashboard.node_client import NodeError
from offramp_dashboard.pages.points import PointsTable
from offramp_dashboard.pages.view import View, card, show
from offramp_dashboard.rates import Increments
from offramp_dashboard.schemas import Policy
from offramp_dashboard.watch import gained_under_this_policy
from offramp_dashboard.words import data_bytes, number, percent, sent_as

_SHARES_S = 120


class TradeoffPage:
    """Shows the policy that the node reports; a change is shown only once the node has accepted it."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._cost: Cost = "MACs"
        self._drawn_for: tuple[str, str] | None = None
        self._shown: Policy | None = None
        self._sliders: list[ui.slider] = []
        self._body = ui.element("div").classes("stack")
        self.refresh()

    def refresh(self) -> None:
        """Follow the node, whoever changed its policy."""
        watch = self._view.one
        if watch.manifest is None or watch.policy is None:
            if self._drawn_for is not None or not self._body.default_slot.children:
                self._drawn_for = None
                self._body.clear()
                with self._body:
                    ui.label("This node's bundle is not known yet.").classes("box muted hint")
            return
        if self._drawn_for != (watch.address, watch.manifest.bundle_id):
            self._drawn_for = (watch.address, watch.manifest.bundle_id)
            self._draw(watch.manifest)
        self._follow(watch.manifest, watch.policy)

    def _draw(self, manifest: Manifest) -> None:
        self._shown = None
        points = manifest.operating_points
        self._body.clear()
        with self._body:
            with ui.element("div").classes("split wide-left"):
                with card("Accuracy against cost, on held-out samples"):
                    known = costs_known(points) or ["MACs"]
                    self._cost = known[0]
                    ui.toggle(known, value=self._cost, on_change=self._cost_changed).props(
                        'no-caps dense unelevated toggle-text-color=surface aria-label="cost shown"'
                    )
                    self._chart = ui.echart({}, on_point_click=self._point_clicked).classes("chart tall")
                with card("θ in force"):
                    self._barred = ui.label().classes("muted")
                    self._state = ui.label().classes("strong").props("aria-live=polite")
                    self._expected = ui.label().classes("muted")
                    self._draw_sliders(manifest)
            with card("Operating points"):
                ui.label(
                    "Choose one by its row. Figures are those of held-out samples, per photo on average; “sent” is "
                    "what a photo takes on the way to the upstream."
                ).classes("muted small note")
                self._table = PointsTable(points, self._choose)

    def _draw_sliders(self, manifest: Manifest) -> None:
        self._sliders, self._numbers = [], []
        for at, name in enumerate(manifest.exit_names[:-1], start=1):
            with ui.element("div").classes("theta-row"):
                ui.label(name)
                slider = (
                    ui.slider(min=0, max=1, step=0.001, value=0, on_change=_show_value)
                    .props(f'label aria-label="θ of {name}"')
                    .on("change", lambda event, at=at: self._theta_moved(at, event))
                )
                self._sliders.append(slider)
                self._numbers.append(ui.label().classes("said"))
        ui.label("θ = 0 always stops at this exit, θ = 1 never does.").classes("muted small")
        self._kept = ui.label().classes("muted small")

    def _follow(self, manifest: Manifest, policy: Policy) -> None:
        points = {point.name: point for point in manifest.operating_points}
        current = policy.operating_point
        gained = gained_under_this_policy(self._view.one, _SHARES_S)
        by_hand = None if current else cost_here(self._cost, manifest, gained)
        chart = frontier(manifest.operating_points, self._cost, current, self._view.palette, by_hand=by_hand)
        show(self._chart, chart)
        if not current:
            self._show_by_hand(manifest, policy, gained)
        self._show_shares(manifest.exit_names, points.get(current or ""), gained)
        barred = self._view.barred(Right.CHANGE)
        self._barred.text = barred
        self._barred.visible = bool(barred)
        self._table.enable(not barred)
        for slider in self._sliders:
            slider.enabled = not barred
        if policy == self._shown:
            return
        self._shown = policy
        end = (
            ", and survives a restart of the node."
            if policy.outlives_restart
            else ", until the node restarts."
        )
        self._kept.text = f"A change applies to all photos from now on{end}"
        self._state.text = f"operating point {current}" if current else "set by hand"
        for slider, label, theta in zip(self._sliders, self._numbers, policy.thetas, strict=False):
            slider.value = theta
            label.text = f"θ {theta:.3f}"
        self._table.mark(current)

    def _show_by_hand(self, manifest: Manifest, policy: Policy, gained: Increments) -> None:
        early = share_on(gained, self._view.one.own_tiers)
        self._table.by_hand(
            policy.thetas,
            MACs=number(cost_here("MACs", manifest, gained)),
            offloaded=percent(None if early is None else 1 - early),
            sent=data_bytes(cost_here("bytes sent", manifest, gained)),
        )

    def _show_shares(self, names: Sequence[str], point: OperatingPoint | None, gained: Increments) -> None:
        here = exit_shares(gained)
        shares = ", ".join(f"{name} {percent(here[name])}" for name in names if name in here)
        sent = "; ".join(
            f"{sent_as(one.sent)}, {data_bytes(one.bytes_each)} each" for one in payloads(gained)
        )
        text = (
            f"Here in the last two minutes, under these θ: {shares}. "
            f"Sent: {data_bytes(uplink_bytes(gained))} per photo{f' ({sent})' if sent else ''}."
            if here
            else "No photos here in the last two minutes under these θ."
        )
        if point and point.measured:
            rates = ", ".join(
                f"{n} {percent(r)}" for n, r in zip(names, point.measured.exit_rates, strict=True)
            )
            text = f"Measured on held-out samples: {rates}. {text}"
        self._expected.text = text

    def _cost_changed(self, event: events.ValueChangeEventArguments[Cost]) -> None:
        self._cost = event.value
        self.refresh()

    async def _point_clicked(self, event: events.EChartPointClickEventArguments) -> None:
        await self._choose(str(event.name))

    async def _choose(self, name: str) -> None:
        await self._change(lambda key: self._view.one.choose(name, key))

    async def _theta_moved(self, number: int, event: events.GenericEventArguments) -> None:
        theta = float(event.args)
        await self._change(lambda key: self._view.one.set_theta(number, theta, key))

    async def _change(self, change: Callable[[str | None], Awaitable[None]]) -> None:
        try:
            if barred := self._view.barred(Right.CHANGE):
                raise NodeError(barred)
            await change(self._view.person.key)
        except NodeError as error:
            self._view.tell(str(error))
        # Sliders go back to what is in force, even after a refusal.
        self._shown = None
        self.refresh()


def _show_value(event: events.ValueChangeEventArguments[float | None]) -> None:
    # The thumb's own label would show all digits of θ; people set three.
    event.sender.props(f"label-value={event.value or 0.0:.3f}")
