"""The tab *Network*: blocks, exits and tiers as a picture."""

from __future__ import annotations

from nicegui import ui

from offramp_dashboard.network import Stage, Tier, macs_for_a_photo, pictured
from offramp_dashboard.pages.view import View, card
from offramp_dashboard.watch import gained_lately
from offramp_dashboard.words import data_bytes, number, percent, sent_as

_SECONDS = 600


class NetworkPage:
    """Draws the bundle of the chosen node, with figures of the last ten minutes."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._shown: object = None
        self._body = ui.element("div").classes("stack")
        self.refresh()

    def refresh(self) -> None:
        """Draw again if something has changed."""
        watch = self._view.one
        tiers = (
            pictured(
                watch.manifest,
                watch.policy,
                watch.readiness,
                gained_lately(watch, _SECONDS),
                own=max(watch.own_tiers - {"edge"}, default="edge"),
            )
            if watch.manifest
            else []
        )
        shown = (watch.manifest and watch.manifest.bundle_id, tiers, self._view.palette)
        if shown == self._shown:
            return
        self._shown = shown
        self._body.clear()
        with self._body:
            if watch.manifest is None:
                ui.label("This node's bundle is not known yet.").classes("box muted hint")
                return
            manifest = watch.manifest
            size = "×".join(str(side) for side in manifest.preprocessing.pixel_shape)
            with card(manifest.bundle_id):
                ui.label(
                    f"{len(manifest.blocks)} blocks, {manifest.num_exits} exits, {len(manifest.labels)} classes; "
                    f"photos are resized to {size} pixels. Shares are from the last ten minutes."
                ).classes("muted")
                taken, whole = macs_for_a_photo(tiers)
                if taken is not None:
                    ui.label(
                        f"A photo took {number(taken)} MACs on average, "
                        f"{percent(taken / whole)} of what all blocks and exits take."
                    )
                with ui.element("div").classes("net"):
                    _arrow("photo")
                    for tier in tiers:
                        self._draw_tier(tier)

    def _draw_tier(self, tier: Tier) -> None:
        if tier.number > 1:
            _arrow(f"{percent(tier.share_in)} offloaded", *_sent(tier), wide=True)
        with ui.element("div").classes("tier"):
            ui.label(tier.name).classes("tier-name")
            with ui.element("div").classes("tier-blocks"):
                for at, stage in enumerate(tier.stages):
                    if at:
                        _arrow(tier.stages[at - 1].feature)
                    self._draw_stage(stage)

    def _draw_stage(self, stage: Stage) -> None:
        with ui.element("div").classes("block-column"):
            with ui.element("div").classes("net-block"):
                ui.label(f"block {stage.number}").classes("strong")
                ui.label(f"{number(stage.macs)} MACs").classes("muted small")
            if stage.exit is None:
                return
            colour = self._view.palette.exit(stage.exit)
            ui.element("div").classes("stem")
            with ui.element("div").classes("net-exit").style(f"border-color:{colour}"):
                ui.label(stage.exit).classes("strong")
                ui.label("always answers" if stage.theta is None else f"θ {stage.theta:.3f}").classes("small")
                ui.label(f"{number(stage.exit_macs)} MACs").classes("muted small")
                ui.label(percent(stage.share)).classes("net-share")
                with ui.element("div").classes("track thin"):
                    ui.element("div").classes("fill").style(
                        f"width:{100 * (stage.share or 0):.1f}%;background:{colour}"
                    )


def _sent(tier: Tier) -> list[str]:
    """What was sent to this tier, one line for each form."""
    if tier.sent is None:
        return ["bytes not told to this node"]
    samples = sum(payload.samples for payload in tier.sent)
    lines = []
    for payload in tier.sent:
        what = sent_as(payload.sent) + (f" {tier.feature_in}" if payload.sent == "feature" else "")
        share = f"{percent(payload.samples / samples)} " if len(tier.sent) > 1 else ""
        lines.append(f"{share}{what}, {data_bytes(payload.bytes_each)} each")
    return lines or ["nothing sent yet"]


def _arrow(above: str, *below: str, wide: bool = False) -> None:
    with ui.element("div").classes("arrow" + (" wide" if wide else "")):
        ui.label(above).classes("small")
        ui.element("div").classes("shaft")
        for text in below:
            ui.label(text).classes("small muted")
