"""The cloud nodes: how many calls they get, and whether calls have to wait."""

from __future__ import annotations

from nicegui import ui

from offramp_dashboard.figures import serving_of
from offramp_dashboard.pages.view import View, card
from offramp_dashboard.rates import summed
from offramp_dashboard.watch import MetricsWatch, steps_lately
from offramp_dashboard.words import milliseconds, number


class CloudsCard:
    """Figures of each cloud node; shows nothing if there is none."""

    def __init__(self, view: View) -> None:
        self._clouds: list[tuple[MetricsWatch, dict[str, ui.label]]] = []
        if view.clouds:
            with card("Cloud nodes", classes="whole"):
                self._clouds = [(cloud, _drawn(cloud)) for cloud in view.clouds]

    def refresh(self, seconds: int) -> None:
        """Show the last `seconds` seconds."""
        for cloud, labels in self._clouds:
            for name, text in _figures(cloud, seconds).items():
                labels[name].text = text


_NAMES = (
    "calls per second",
    "photos per call",
    "calls in flight",
    "waiting, p95",
    "computing, p95",
    "refused",
)


def _drawn(cloud: MetricsWatch) -> dict[str, ui.label]:
    labels = {}
    with ui.element("div").classes("cloud").props("role=group") as row:
        # Set as a value, not as text: an address could end a quoted attribute.
        row.props["aria-label"] = cloud.name
        ui.label(cloud.name).classes("cloud-name")
        for name in _NAMES:
            with ui.element("div"):
                ui.label(name).classes("tile-title")
                labels[name] = ui.label().classes("cloud-value")
    return labels


def _figures(cloud: MetricsWatch, seconds: int) -> dict[str, str]:
    steps = steps_lately(cloud, seconds)
    serving = serving_of(summed(step.gained for step in steps), sum(step.seconds for step in steps))
    # Calls in flight are a figure of this moment, so they are unknown if the node cannot be read.
    pending = cloud.reading.gauge("offramp_pending") if cloud.reading and not cloud.fault else None
    texts = (
        number(serving.calls_per_s),
        number(serving.samples_per_call),
        number(pending),
        milliseconds(serving.waiting_ms),
        milliseconds(serving.computing_ms),
        number(serving.refused if steps else None),
    )
    return dict(zip(_NAMES, texts, strict=True))
