"""The tab *Try it*: one photo and its result."""

from __future__ import annotations

import asyncio
import base64
import binascii

from nicegui import events, ui

from offramp_dashboard.node_client import NodeError
from offramp_dashboard.pages.answer import AnswerBox
from offramp_dashboard.pages.view import View, card, data_url, told
from offramp_dashboard.samples import Sample, drawn_samples
from offramp_dashboard.schemas import Policy, Prediction
from offramp_dashboard.seen import seen_by_the_network

_MAX_BYTES = 32_000_000  # the default limit of an edge node
_MAX_SHOWN_BYTES = 3_000_000
_SKETCH = (
    '<canvas class="sketch" width="224" height="224" role="img" aria-describedby="sketch-note" '
    'aria-label="Draw here with mouse, pen or finger"></canvas>'
)


class TrialPage:
    """Ways to give a photo on the left, the answer on the right."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._last: tuple[Prediction, Policy] | None = None
        self._labels: tuple[str, ...] = ()
        with ui.element("div").classes("split"):
            with ui.element("div").classes("stack"):
                with card("Your own photo"):
                    self._draw_upload()
                self._shipped = card("A shipped sample")
                with self._shipped:
                    self._strip = ui.element("div").classes("strip")
                    ui.button("Others", icon="refresh", on_click=self._fill_strip).props("flat dense no-caps")
                with card("A drawing"), ui.row().classes("drawing"):
                    ui.html(_SKETCH, sanitize=False)
                    with ui.column():
                        ui.button("Classify", on_click=self._sketched).props(
                            "unelevated no-caps text-color=surface"
                        )
                        ui.button("Clear", on_click=lambda: ui.run_javascript("offrampSketch.clear()")).props(
                            "flat no-caps"
                        )
                        ui.label("No mouse, pen or finger? Choose a photo or take a sample.").classes(
                            "muted small"
                        ).props("id=sketch-note")
            with ui.element("div").classes("stack"):
                self._answer = AnswerBox()
        self._fill_strip()
        self.refresh()

    def refresh(self) -> None:
        """Offer the samples that fit the bundle, and draw the last answer in the current colours."""
        manifest = self._view.one.manifest
        labels = manifest.labels if manifest else ()
        if labels != self._labels:
            self._labels = labels
            self._fill_strip()
        if self._last:
            self._answer.paint(*self._last, self._view.palette)

    def _draw_upload(self) -> None:
        upload = (
            ui.upload(
                auto_upload=True,
                max_file_size=_MAX_BYTES,
                on_upload=self._uploaded,
                on_rejected=lambda: told("The photo is larger than 32 MB, the most that an edge node takes."),
            )
            .props('flat bordered accept="image/*"')
            .classes("upload")
        )
        # Quasar's own button contains the file field, which screen readers cannot make sense of. Here the field is in
        # a label, and a separate button is for the keyboard.
        with upload.add_slot("header"), ui.element("div").classes("drop"):
            with ui.element("label").classes("drop-label"):
                ui.label("Drop a photo here")
                ui.element("q-uploader-add-trigger")
            ui.button("Choose a photo").props("flat dense no-caps").on(
                "click", js_handler=f"() => runMethod({upload.id}, 'pickFiles', [])"
            )

    def _fill_strip(self) -> None:
        samples = drawn_samples(self._view.samples, self._labels)
        self._shipped.visible = bool(samples)
        self._strip.clear()
        with self._strip:
            for sample in samples:
                self._sample_button(sample)

    def _sample_button(self, sample: Sample) -> None:
        button = (
            ui.element("button").classes("sample").on("click", lambda: self._ask(sample.image, sample.label))
        )
        # Set one by one: a label comes from a node and could end a quoted attribute.
        button.props["type"] = "button"
        button.props["title"] = sample.label
        button.props["aria-label"] = f"Classify this {sample.label}"
        with button:
            picture = ui.element("img").props('alt=""')
            picture.props["src"] = data_url(sample.image)

    async def _uploaded(self, event: events.UploadEventArguments) -> None:
        image = await event.file.read()
        assert isinstance(event.sender, ui.upload)
        event.sender.reset()
        await self._ask(image)

    async def _sketched(self) -> None:
        url = await ui.run_javascript("offrampSketch.png()", timeout=5)
        try:
            image = base64.b64decode(str(url).partition(",")[2], validate=True)
        except binascii.Error:
            return told("The browser did not send the drawing.")
        if not image:
            return told("Draw something first.")
        return await self._ask(image)

    async def _ask(self, image: bytes, truth: str | None = None) -> None:
        try:
            prediction, policy = await self._view.one.ask(image)
        except NodeError as error:
            self._last = None
            self._answer.refused(str(error))
            return
        self._last = prediction, policy
        source = data_url(image) if len(image) <= _MAX_SHOWN_BYTES else None
        manifest = self._view.one.manifest
        # A large photo takes a while to decode.
        seen = (
            await asyncio.to_thread(seen_by_the_network, image, manifest.preprocessing) if manifest else None
        )
        self._answer.answered(prediction, source=source, seen=seen, photo_bytes=len(image), truth=truth)
        self._answer.paint(prediction, policy, self._view.palette)
        # On a phone, the answer is below the button that was pressed.
        ui.run_javascript("document.querySelector('.answer')?.scrollIntoView({block: 'nearest'})")
