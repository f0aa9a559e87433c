"""The tab *Try it*: one photo and its result."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable
from typing import Any
from weakref import WeakMethod

from nicegui import background_tasks, events, ui

from offramp.bundle import Preprocessing
from offramp.serving.access.keys import Right
from offramp_dashboard.node_client import NodeError
from offramp_dashboard.pages.answer import AnswerBox
from offramp_dashboard.pages.view import View, card, data_url
from offramp_dashboard.samples import Sample, drawn_samples
from offramp_dashboard.schemas import Policy, Prediction
from offramp_dashboard.seen import seen_by_the_network, thumbnail
from offramp_dashboard.words import data_bytes

_MAX_BYTES = 32_000_000  # the default limit of an edge node
_SHOWN_SIDE = 512
# A network with one channel and at most this many pixels a side takes what is drawn with a thick pen.
_LARGEST_DRAWING = 64
_SKETCH = (
    '<canvas class="sketch" width="224" height="224" role="img" aria-describedby="sketch-note" '
    'aria-label="Draw here with mouse, pen or finger"></canvas>'
)
# The first file that Quasar rejects, and by which of the two rules.
_REJECTED = """(rejected) => emit({
  name: rejected[0].file.name, size: rejected[0].file.size, why: rejected[0].failedPropValidation
})"""


def _weakly(method: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A handler of an upload's events that does not keep the page.

    FastAPI remembers the routes of the last thousands of uploads, and with them what they lead to.
    """
    handler = WeakMethod(method)
    return lambda event: (here := handler()) and here(event)


class TrialPage:
    """Ways to give a photo on the left, the answer on the right."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._client = ui.context.client
        self._last: tuple[Prediction, Policy] | None = None
        self._labels: tuple[str, ...] = ()
        self._controls: list[ui.button | ui.upload] = []
        with ui.element("div").classes("split"):
            with ui.element("div").classes("stack"):
                self._barred = ui.label().classes("box muted")
                with card("Your own photo"):
                    self._draw_upload()
                self._shipped = card("A shipped sample")
                with self._shipped:
                    self._strip = ui.element("div").classes("strip")
                    with ui.row().classes("bar"):
                        ui.button("Others", icon="refresh", on_click=self._fill_strip).props(
                            "flat dense no-caps"
                        )
                        self._strip_note = ui.label().classes("muted small")
                self._drawing = card("A drawing")
                with self._drawing, ui.row().classes("drawing"):
                    self._draw_pad()
            with ui.element("div").classes("stack"):
                self._answer = AnswerBox()
        self._shipped.visible = False
        self._barred.visible = False
        self.refresh()

    def refresh(self) -> None:
        """Offer the samples that fit the bundle, and draw the last answer in the current colours."""
        manifest = self._view.one.manifest
        self._drawing.visible = manifest is not None and _takes_drawings(manifest.preprocessing)
        labels = manifest.labels if manifest else ()
        barred = self._view.barred(Right.ASK)
        for control in self._controls:
            control.enabled = not barred
        if labels != self._labels or barred != self._barred.text:
            self._labels = labels
            self._barred.text = barred
            self._barred.visible = bool(barred)
            background_tasks.create(self._fill_strip(), name="samples")
        if self._last:
            self._answer.paint(*self._last, self._view.palette)

    def _draw_pad(self) -> None:
        ui.html(_SKETCH, sanitize=False)
        with ui.column():
            classify = ui.button("Classify", on_click=self._sketched)
            classify.props("unelevated no-caps text-color=surface")
            self._controls.append(classify)
            ui.button("Clear", on_click=lambda: ui.run_javascript("offrampSketch.clear()")).props(
                "flat no-caps"
            )
            ui.label("No mouse, pen or finger? Choose a photo or take a sample.").classes(
                "muted small"
            ).props("id=sketch-note")

    def _draw_upload(self) -> None:
        upload = (
            ui.upload(
                auto_upload=True,
                max_file_size=_MAX_BYTES,
                on_upload=_weakly(self._uploaded),
            )
            # Not every browser knows that a HEIC file is an image.
            .props('flat bordered accept="image/*,.heic,.heif"')
            .classes("upload")
        )
        self._controls.append(upload)
        upload.on("rejected", _weakly(self._rejected), js_handler=_REJECTED)
        # Quasar's own button contains the file field, which screen readers cannot make sense of. Here the field is in
        # a label, and a separate button is for the keyboard.
        with upload.add_slot("header"), ui.element("div").classes("drop"):
            with ui.element("label").classes("drop-label"):
                ui.label("Drop a photo here")
                ui.element("q-uploader-add-trigger")
            choose = ui.button("Choose a photo").props("flat dense no-caps")
            choose.on("click", js_handler=f"() => runMethod({upload.id}, 'pickFiles', [])")
            self._controls.append(choose)

    async def _fill_strip(self) -> None:
        # Photos may be large, so their thumbnails are made beside the event loop.
        drawn = await asyncio.to_thread(drawn_samples, self._view.samples, self._labels)
        if self._client.is_deleted:  # the page was closed meanwhile
            return
        self._shipped.visible = bool(drawn.samples)
        shown = len(drawn.samples)
        self._strip_note.text = f"{shown} of {drawn.num_classes} classes" if shown < drawn.num_classes else ""
        self._strip.clear()
        with self._strip:
            for sample in drawn.samples:
                self._sample_button(sample)

    def _sample_button(self, sample: Sample) -> None:
        button = ui.element("button").classes("sample").on("click", lambda: self._ask_sample(sample))
        # Set one by one: a label comes from a node and could end a quoted attribute.
        button.props["type"] = "button"
        button.props["disabled"] = bool(self._barred.text)
        button.props["title"] = sample.label
        button.props["aria-label"] = f"Classify this {sample.label}"
        with button:
            if sample.thumbnail is None:
                ui.label(sample.label).classes("no-picture")
                return
            picture = ui.element("img").props('alt=""')
            picture.props["src"] = data_url(sample.thumbnail)

    async def _ask_sample(self, sample: Sample) -> None:
        try:
            image = await asyncio.to_thread(sample.file.read_bytes)
        except OSError as error:
            self._view.tell(f"{sample.file.name} cannot be read: {error.strerror}.")
            return
        await self._ask(image, sample.label)

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
            return self._view.tell("The browser did not send the drawing.")
        if not image:
            return self._view.tell("Draw something first.")
        return await self._ask(image)

    def _rejected(self, event: events.GenericEventArguments) -> None:
        found = event.args if isinstance(event.args, dict) else {}
        name, size = str(found.get("name", "")), found.get("size")
        told = f"{name} ({data_bytes(size)})" if isinstance(size, int) else name
        if found.get("why") == "max-file-size":
            self._view.tell(f"{told} is larger than 32 MB, the most that an edge node takes.")
        else:
            self._view.tell(f"{told} is not a photo. Choose a JPEG, PNG, WebP or HEIC file.")

    async def _ask(self, image: bytes, truth: str | None = None) -> None:
        if barred := self._view.barred(Right.ASK):
            self._view.tell(barred)
            return
        try:
            prediction, policy = await self._view.one.ask(image, self._view.person.key)
        except NodeError as error:
            self._last = None
            self._answer.refused(str(error))
            return
        self._last = prediction, policy
        manifest = self._view.one.manifest
        # A large photo takes a while to decode.
        photo = await asyncio.to_thread(thumbnail, image, _SHOWN_SIDE)
        seen = (
            await asyncio.to_thread(seen_by_the_network, image, manifest.preprocessing) if manifest else None
        )
        self._answer.answered(prediction, photo=photo, seen=seen, photo_bytes=len(image), truth=truth)
        self._answer.paint(prediction, policy, self._view.palette)
        # On a phone, the answer is below the button that was pressed.
        ui.run_javascript("document.querySelector('.answer')?.scrollIntoView({block: 'nearest'})")


def _takes_drawings(preprocessing: Preprocessing) -> bool:
    return preprocessing.mode == "L" and max(preprocessing.height, preprocessing.width) <= _LARGEST_DRAWING
