"""The result for one photo: the answer, the confidence that each exit needed, and where the time went."""

from __future__ import annotations

from nicegui import ui

from offramp_dashboard.charts.palette import Palette
from offramp_dashboard.charts.trial import probabilities, waterfall
from offramp_dashboard.pages.view import card, data_url, show
from offramp_dashboard.schemas import Policy, Prediction
from offramp_dashboard.seen import Seen
from offramp_dashboard.words import data_bytes, milliseconds, percent


class AnswerBox:
    """The right half of *Try it*."""

    def __init__(self) -> None:
        self._painted: tuple[Prediction, Policy, Palette] | None = None
        self._none = ui.label("No photo yet. Drop one, pick a sample, or draw.").classes("box muted hint")
        self._fault = ui.label().classes("box fault").props("role=alert")
        self._fault.visible = False
        self._whole = ui.element("div").classes("stack").props("aria-live=polite")
        self._whole.visible = False
        with self._whole:
            with card("Answer"), ui.row().classes("answer"):
                self._photo = ui.element("img").classes("photo").props('alt="the photo"')
                self._seen = ui.element("img").classes("photo seen").props('alt="what the network sees"')
                with ui.column().classes("facts"):
                    self._label = ui.label().classes("answer-label")
                    self._where = ui.label()
                    self._truth = ui.label().classes("muted")
                    self._sent = ui.label().classes("muted")
                    self._fitting = ui.label().classes("muted")
                    self._degraded = ui.label().classes("warning")
            with card("Confidence against θ"):
                self._exits = ui.element("div").classes("exits")
            with ui.element("div").classes("grid2"):
                with card("Probabilities"):
                    self._bars = ui.echart({}).classes("chart")
                with card("Where the time went"):
                    self._times = ui.echart({}).classes("chart")

    def refused(self, text: str) -> None:
        """Show why there is no answer, in the node's own words."""
        self._none.visible = self._whole.visible = False
        self._fault.visible = True
        self._fault.text = text

    def answered(
        self,
        prediction: Prediction,
        *,
        source: str | None,
        seen: Seen | None,
        photo_bytes: int,
        truth: str | None,
    ) -> None:
        """Show an answer in words, beside the photo (`source`) and the pixels that the network sees."""
        self._none.visible = self._fault.visible = False
        self._whole.visible = True
        self._photo.visible = source is not None
        if source:
            self._photo.props["src"] = source
        self._seen.visible = self._fitting.visible = seen is not None
        if seen:
            self._seen.props["src"] = data_url(seen.png)
            self._fitting.text = f"what the network sees: {seen.words}"
        exit = prediction.exit
        self._label.text = prediction.label
        self._where.text = (
            f"left at {exit.name} on {exit.tier} with {percent(prediction.confidence)} confidence, "
            f"after {milliseconds(prediction.timings_ms.total)}"
        )
        self._truth.visible = truth is not None
        self._truth.text = (
            f"{'right' if truth == prediction.label else 'wrong'}: the sample's class is {truth}"
        )
        what = {"feature": "as a feature tensor", "image": "as the photo itself"}.get(prediction.sent, "")
        self._sent.text = (
            f"{data_bytes(prediction.uplink_bytes)} sent {what}; the photo is {data_bytes(photo_bytes)}"
            if prediction.uplink_bytes
            else f"nothing sent; the photo is {data_bytes(photo_bytes)}"
        )
        self._degraded.visible = prediction.degraded
        self._degraded.text = f"degraded: {prediction.degraded_reason}"

    def paint(self, prediction: Prediction, policy: Policy, palette: Palette) -> None:
        """Draw charts and bars, if anything has changed."""
        if (prediction, policy, palette) == self._painted:
            return
        self._painted = prediction, policy, palette
        show(self._bars, probabilities(prediction, palette))
        show(self._times, waterfall(prediction, palette))
        self._exits.clear()
        with self._exits:
            for number in range(1, len(policy.thetas) + 2):
                self._exit_row(number, prediction, policy, palette)

    def _exit_row(self, number: int, prediction: Prediction, policy: Policy, palette: Palette) -> None:
        last = number > len(policy.thetas)
        name = "final" if last else f"exit-{number}"
        theta = None if last else policy.thetas[number - 1]
        taken = number == prediction.exit.number
        ui.label(name).classes("strong" if taken else "muted")
        with ui.element("div").classes("track"):
            if taken:
                width = 100 * prediction.confidence
                ui.element("div").classes("fill").style(f"width:{width:.2f}%;background:{palette.exit(name)}")
            if theta is not None:
                ui.element("div").classes("theta").style(f"left:{100 * theta:.2f}%")
        limit = "always answers" if theta is None else f"θ {theta:.3f}"
        if taken:
            said = f"{prediction.confidence:.3f} · {limit}"
        elif number < prediction.exit.number:
            said = f"below {limit}"
        else:
            said = limit if prediction.degraded else f"{limit} · not computed"
        ui.label(said).classes("said" + ("" if taken else " muted"))
