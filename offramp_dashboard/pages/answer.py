"""The result for one photo: the answer, the confidence that each exit needed, and where the time went."""

from __future__ import annotations

from nicegui import ui

from offramp.engine.images import photo_size
from offramp_dashboard.charts.palette import Palette
from offramp_dashboard.charts.trial import probabilities, waterfall
from offramp_dashboard.pages.view import card, data_url, show
from offramp_dashboard.schemas import ExitRun, Policy, Prediction
from offramp_dashboard.seen import Seen
from offramp_dashboard.words import data_bytes, milliseconds, percent, sent_as

# Pixels a side up to which a picture is enlarged without smoothing.
_TINY = 128


class _Picture:
    """A picture with its caption."""

    def __init__(self, caption: str, classes: str) -> None:
        self._figure = ui.element("figure").classes("picture")
        with self._figure:
            self._image = ui.element("img").classes(classes).props(f'alt="{caption}"')
            with ui.element("figcaption").classes("muted small"):
                ui.label(caption)

    def show(self, image: bytes | None) -> None:
        """Show an image, or nothing."""
        self._figure.visible = image is not None
        if image:
            self._image.props["src"] = data_url(image)
            is_tiny = max(photo_size(image)) <= _TINY
            self._image.classes(add="tiny" if is_tiny else "", remove="" if is_tiny else "tiny")


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
                self._photo = _Picture("the photo", "photo")
                self._seen = _Picture("what the network sees", "photo seen")
                with ui.column().classes("facts"):
                    self._label = ui.label().classes("answer-label")
                    self._where = ui.label()
                    self._truth = ui.label().classes("muted")
                    self._sent = ui.label().classes("muted")
                    self._fitting = ui.label().classes("muted")
                    self._degraded = ui.label().classes("warning")
                    self._unfamiliar = ui.label(
                        "unfamiliar: the picture is unlike those that the network knows"
                    ).classes("warning")
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
        photo: bytes | None,
        seen: Seen | None,
        photo_bytes: int,
        truth: str | None,
    ) -> None:
        """Show an answer in words, beside a thumbnail of the photo and the pixels that the network sees."""
        self._none.visible = self._fault.visible = False
        self._whole.visible = True
        self._photo.show(photo)
        self._seen.show(seen.png if seen else None)
        self._fitting.text = (
            f"what the network sees: {seen.words}"
            if seen
            else "The photo cannot be shown: the dashboard's machine does not read this format."
        )
        exit = prediction.exit
        self._label.text = prediction.label
        self._where.text = (
            f"left at {exit.name} on {exit.tier} with {percent(prediction.confidence)} confidence, "
            f"after {milliseconds(prediction.timings_ms.total)}"
        )
        self._truth.visible = truth is not None
        self._truth.text = (
            f"{'right' if prediction.names(truth or '') else 'wrong'}: the sample's class is {truth}"
        )
        self._sent.text = _sent(prediction, photo_bytes)
        self._degraded.visible = prediction.degraded
        self._unfamiliar.visible = bool(prediction.unfamiliar)
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
        run = next((exit for exit in prediction.exits if exit.number == number), None)
        # θ as it was when the exit was run; it may have been changed since.
        theta = run.theta if run else None if last else policy.thetas[number - 1]
        taken = number == prediction.exit.number
        ui.label(name).classes("strong" if taken else "muted")
        with ui.element("div").classes("track"):
            if run and run.confidence is not None:
                colour = palette.exit(name) if taken else palette.muted
                ui.element("div").classes("fill").style(
                    f"width:{100 * run.confidence:.2f}%;background:{colour}"
                )
            if theta is not None:
                ui.element("div").classes("theta").style(f"left:{100 * theta:.2f}%")
        ui.label(_said(run, theta, prediction, number)).classes("said" + ("" if taken else " muted"))


def _said(run: ExitRun | None, theta: float | None, prediction: Prediction, number: int) -> str:
    limit = "always answers" if theta is None else f"θ {theta:.3f}"
    if run is None:
        known = number > prediction.exit.number
        return f"{limit} · {'not computed' if known else 'the upstream does not tell'}"
    confidence = "not a number" if run.confidence is None else f"{run.confidence:.3f}"
    if theta is None:
        return f"{confidence} · always answers"
    if number == prediction.exit.number and not prediction.degraded:
        return f"{confidence} ≥ {limit}: answered"
    surest = ", but the surest here" if number == prediction.exit.number else ""
    return f"{confidence} < {limit}{surest}"


def _sent(prediction: Prediction, photo_bytes: int) -> str:
    photo = f"the photo is {data_bytes(photo_bytes)}"
    size = data_bytes(prediction.uplink_bytes)
    if prediction.degraded and prediction.sent == "nothing":
        if prediction.uplink_bytes:
            return f"{size} sent, but the upstream did not answer; {photo}"
        return f"nothing sent, because the upstream is out of reach; {photo}"
    if prediction.uplink_bytes:
        return f"sent: {sent_as(prediction.sent)}, {size} with framing; {photo}"
    return f"nothing sent, because an exit here was sure enough; {photo}"
