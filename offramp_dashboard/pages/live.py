"""The tab *Live*: what the nodes did in the last minutes."""

from __future__ import annotations

from nicegui import ui

from offramp_dashboard.charts import live
from offramp_dashboard.figures import (
    latencies,
    leavings,
    payloads,
    photo_bytes,
    reasons,
    share_on,
    uplink_bytes,
)
from offramp_dashboard.history import SAMPLES, rate_now
from offramp_dashboard.pages.clouds import CloudsCard
from offramp_dashboard.pages.edges import EdgesCard
from offramp_dashboard.pages.view import Chart, View, card
from offramp_dashboard.rates import Increments, summed, total
from offramp_dashboard.watch import bins_of
from offramp_dashboard.words import data_bytes, milliseconds, number, percent, sent_as

# Seconds shown. Every window has 120 points, however long it is.
_WINDOWS = {120: "2 min", 600: "10 min"}
_POINTS = 120
_NO_PHOTOS = (
    "No photos were classified in this time. Try one under “Try it”, or send one to POST /v1/predict."
)


class Tile:
    """One figure with its name and a line about it."""

    def __init__(self, title: str) -> None:
        self._box = ui.element("div").classes("tile")
        with self._box:
            ui.label(title).classes("tile-title")
            self._value = ui.label().classes("tile-value")
            self._note = ui.label().classes("tile-note")

    def show(self, value: str, note: str = "", *, bad: bool = False) -> None:
        """Set the figure and the line; a bad figure is red."""
        self._value.text = value
        self._note.text = note
        self._box.classes(add="bad" if bad else "", remove="" if bad else "bad")


class LivePage:
    """Figures and charts of the chosen nodes."""

    def __init__(self, view: View) -> None:
        self._view = view
        with ui.element("div").classes("tiles"):
            self._rate, self._early, self._bytes, self._upstream, self._degraded = (
                Tile(title)
                for title in (
                    "Photos per second",
                    "Answered at the edge",
                    "Sent per photo",
                    "Upstream",
                    "Degraded",
                )
            )
        with ui.row().classes("bar"):
            self._window = ui.toggle(_WINDOWS, value=120, on_change=self.refresh).props(
                'no-caps dense unelevated toggle-text-color=surface aria-label="time shown"'
            )
            self._empty = ui.label(_NO_PHOTOS).classes("muted")
        with ui.element("div").classes("grid2"):
            with card("Where the photos left"):
                self._shares = Chart()
            with card("Photos per second"):
                self._rates = Chart(has_legend=False)
            with card("95 % of photos answered within"):
                self._latency = Chart()
            with card("Bytes per photo"):
                self._traffic = Chart()
            with card("Time in the node, by exit"):
                self._table = ui.table(columns=_COLUMNS, rows=[], row_key="exit").props(
                    "flat dense hide-bottom"
                )
            with card("Degraded and refused"):
                self._reasons = ui.table(columns=_REASON_COLUMNS, rows=[], row_key="why").props(
                    "flat dense hide-bottom hide-no-data"
                )
                self._fine = ui.label("No photo was degraded or refused.").classes("muted")
            self._edges = EdgesCard(view)
            self._clouds = CloudsCard(view)
        self.refresh()

    def refresh(self) -> None:
        """Show the last minutes."""
        seconds = int(self._window.value)
        width = seconds // _POINTS
        bins = bins_of(self._view.chosen, seconds=seconds, width=width)
        gained = summed(one.gained for one in bins if one.gained is not None)
        samples = total(gained, SAMPLES)
        self._empty.visible = not samples
        self._show_tiles(gained, samples, rate_now(bins))
        palette = self._view.palette
        self._shares.show(live.shares(bins, palette))
        self._rates.show(live.rate(bins, palette))
        self._latency.show(live.latency(bins, palette))
        self._traffic.show(live.traffic(bins, palette))
        self._show_tables(gained)
        self._edges.refresh(seconds)
        self._clouds.refresh(seconds)

    def _show_tiles(self, gained: Increments, samples: float, now_per_s: float | None) -> None:
        window = _WINDOWS[int(self._window.value)]
        self._rate.show(number(now_per_s), f"{number(samples)} in {window}")
        edges = {tier for watch in self._view.chosen for tier in watch.own_tiers}
        degraded = sum(count for key, count in leavings(gained).items() if key.degraded)
        sure = "by an exit that was sure" if samples else ""
        more = f"; {percent(degraded / samples)} more, but degraded" if degraded else ""
        self._early.show(percent(share_on(gained, edges)), sure + more)
        self._bytes.show(data_bytes(uplink_bytes(gained)), _what_was_sent(gained))
        self._show_upstream()
        top = next((why for kind, why, _ in reasons(gained) if kind == "degraded"), "")
        self._degraded.show(
            percent(degraded / samples if samples else None),
            f"{number(degraded)} answer{'' if degraded == 1 else 's'}, mostly: {top.replace('_', ' ')}"
            if degraded
            else "no answer was degraded"
            if samples
            else "",
            bad=degraded > 0,
        )

    def _show_upstream(self) -> None:
        known = [
            (watch, watch.readiness.upstream)
            for watch in self._view.chosen
            if watch.readiness and not watch.fault
        ]
        upstreams = [upstream for _, upstream in known if upstream]
        down = [upstream for upstream in upstreams if not upstream.up]
        if not known:
            self._upstream.show("unknown", "the node cannot be read", bad=True)
        elif not upstreams:
            self._upstream.show("none", "all blocks run on the node itself")
        elif down:
            count = f"{len(down)} of {len(upstreams)} down" if len(upstreams) > 1 else "down"
            reason = down[0].reason or "no reason given"
            named = reason if down[0].target in reason else f"{down[0].target}: {reason}"
            self._upstream.show(count, named, bad=True)
        else:
            self._upstream.show("up", ", ".join(sorted({upstream.target for upstream in upstreams})))

    def _show_tables(self, gained: Increments) -> None:
        rows = [
            {"exit": row.exit, "answers": number(row.answers)}
            | {
                name: milliseconds(ms)
                for name, ms in zip(("p50", "p95", "p99"), row.quantiles_ms, strict=True)
            }
            for row in latencies(gained)
        ]
        if self._table.rows != rows:
            self._table.rows = rows
        wrong = [
            {"kind": kind, "why": why.replace("_", " "), "count": number(n)}
            for kind, why, n in reasons(gained)
        ]
        if self._reasons.rows != wrong:
            self._reasons.rows = wrong
        self._reasons.visible = bool(wrong)
        self._fine.visible = not wrong and bool(rows)


def _what_was_sent(gained: Increments) -> str:
    sent, photo = uplink_bytes(gained), photo_bytes(gained)
    if not photo or sent is None:
        return ""
    saved = f"{percent(sent / photo)} of what sending every photo takes"
    forms = [
        f"{number(one.samples)} × {sent_as(one.sent)}, {data_bytes(one.bytes_each)} each"
        for one in payloads(gained)
    ]
    return "; ".join([saved, *forms])


def _column(name: str, label: str, align: str = "right") -> dict[str, str]:
    return {"name": name, "label": label, "field": name, "align": align}


_COLUMNS = [
    _column("exit", "exit", "left"),
    _column("answers", "answers"),
    *(_column(name, name) for name in ("p50", "p95", "p99")),
]
_REASON_COLUMNS = [
    _column("kind", "outcome", "left"),
    _column("why", "why", "left"),
    _column("count", "answers"),
]
