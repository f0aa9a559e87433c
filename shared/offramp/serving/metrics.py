"""A node's metrics for Prometheus: base units, bounded labels, one registry for each node.

Labels are created once, so counting an answer takes only a dozen additions. If a node runs as several processes, they
count in shared files (prometheus-client's multiprocess mode), and each of them reports the totals. Figures of a single
process, such as its memory, are then left out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
    multiprocess,
    values,
)

from offramp.bundle import Manifest
from offramp.engine.payload import Sent
from offramp.errors import OffloadReason
from offramp.logs import lost_lines
from offramp.serving.answers import Answers

# Names the directory of these shared files; prometheus-client reads it when it is imported.
SHARED_BY = "PROMETHEUS_MULTIPROC_DIR"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Blocks of small networks take tens of microseconds, a slow uplink seconds.
_SECONDS = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_CONFIDENCES = tuple(step / 20 for step in range(1, 21))
_MOST_TIERS = 16
_SAMPLES = (1, 2, 4, 8, 16, 32, 64)
# A reason besides those of `OffloadReason`: the upstream answered, but a tier behind it did not.
_DEEPER = "deeper_tier"
# A way of sending besides those of `Sent`: the upstream did not answer, whatever was sent to it.
_UNANSWERED = "unanswered"

# How the values of several processes make one gauge.
_Mode = Literal["livesum", "livemin", "livemostrecent"]
_LATEST: _Mode = "livemostrecent"
# θ in force, and the name of the operating point they came from.
_Policy = Callable[[], tuple[Sequence[float], str | None]]


class NodeMetrics:
    """The metrics of one node."""

    def __init__(self, manifest: Manifest) -> None:
        """Start at zero."""
        self._own = CollectorRegistry()
        self._is_shared = SHARED_BY in os.environ
        self._gauges: list[tuple[Gauge, Callable[[], float]]] = []
        self.registry = _of_all_processes() if self._is_shared else _with_process_figures(self._own)
        names = manifest.exit_names
        self._names = names
        self._tiers: set[str] = set()
        self._samples = self._counter("samples", "Answers given.", "exit", "tier", "outcome")
        seconds = self._histogram(
            "sample_seconds", "Time from a sample's arrival to its answer.", _SECONDS, "exit"
        )
        self._seconds = [seconds.labels(name) for name in names]
        stage = self._histogram("stage_seconds", "Time that a call spent in each stage.", _SECONDS, "stage")
        (
            self._decode,
            self._blocks,
            self._queue,
            self._offload,
            self._upstream_queue,
            self._upstream_compute,
        ) = (
            stage.labels(name)
            for name in ("decode", "blocks", "queue", "offload", "upstream_queue", "upstream_compute")
        )
        confidence = self._histogram(
            "confidence", "Confidence of the exit that answered.", _CONFIDENCES, "exit"
        )
        self._confidence = [confidence.labels(name) for name in names]
        self._uplink = self._uplink_counters()
        self._degraded = self._counter("degraded", "Answers that a deeper tier should have given.", "reason")
        for reason in (*OffloadReason, _DEEPER):
            self._degraded.labels(reason)
        unfamiliar = self._counter("unfamiliar", "Answers to samples that a guard found unfamiliar.", "exit")
        self._unfamiliar = [unfamiliar.labels(name) for name in names]
        self._refused = self._counter("refused", "Calls answered with an error.", "code")
        self._images = self._counter("image_bytes", "Bytes of the images received.")
        self._call_samples = self._histogram("batch_samples", "Samples in one call.", _SAMPLES)
        lost_lines.tell(self._counter("log_lines_lost", "Log lines that nobody read in time.").inc)
        self._gauge("bundle_info", "The bundle this node serves.", "bundle").labels(manifest.bundle_id).set(1)

    def watch(self, name: str, text: str, read: Callable[[], float], *, sums: bool = False) -> None:
        """Add a gauge that is read on demand; several processes report their minimum, or their sum if `sums`."""
        self._follow(self._gauge(name, text, mode="livesum" if sums else "livemin"), read)

    def watch_thetas(self, read: _Policy, points: Sequence[str]) -> None:
        """Add gauges of θ and of the operating point in force; its name is "" when θ were set by hand."""
        theta = self._gauge("theta", "Threshold θ in force.", "exit", mode=_LATEST)
        for at, name in enumerate(self._names[:-1]):
            self._follow(theta.labels(name), partial(_theta, read, at))
        info = self._gauge(
            "operating_point_info", "1 for the operating point in force.", "name", mode=_LATEST
        )
        for point in ("", *points):
            self._follow(info.labels(point), partial(_is_in_force, read, point))

    def _follow(self, gauge: Gauge, read: Callable[[], float]) -> None:
        if not self._is_shared:
            gauge.set_function(read)
            return
        self._gauges.append((gauge, read))
        gauge.set(read())

    def refresh(self) -> None:
        """Read this process's gauges again; until the next time, the other processes report these values."""
        for gauge, read in self._gauges:
            gauge.set(read())

    def received(self, image_bytes: int) -> None:
        """Count the bytes of images that arrived."""
        self._images.inc(image_bytes)

    def refused(self, code: str) -> None:
        """Count a call that was answered with an error; codes are a fixed set."""
        self._refused.labels(code).inc()

    def answered(self, answers: Answers, seconds: float) -> None:
        """Count the answers of a call; `seconds` have passed since it arrived."""
        own, *upstream = answers.times
        self._call_samples.observe(len(answers.samples))
        self._decode.observe(answers.load_ms / 1000)
        self._queue.observe(own.queue_ms / 1000)
        self._blocks.observe(own.compute_ms / 1000)
        if answers.offload_ms:
            self._offload.observe(answers.offload_ms / 1000)
        for time in upstream[:1]:
            self._upstream_queue.observe(time.queue_ms / 1000)
            self._upstream_compute.observe(time.compute_ms / 1000)
        for sample in answers.samples:
            at = sample.answer.exit_number - 1
            self._seconds[at].observe(seconds)
            self._confidence[at].observe(sample.answer.confidence)
            if sample.answer.unfamiliar:
                self._unfamiliar[at].inc()
            outcome = "ok" if sample.degraded_reason is None else "degraded"
            self._samples.labels(self._names[at], self._tier_label(sample.tier), outcome).inc()
            if sample.uplink_bytes:
                uplink_bytes, uplink_samples = self._uplink[sample.sent or _UNANSWERED]
                uplink_bytes.inc(sample.uplink_bytes)
                uplink_samples.inc()
            if sample.degraded_reason is not None:
                self._degraded.labels(sample.degraded_by or _DEEPER).inc()

    def _tier_label(self, tier: str) -> str:
        """The tier's name; for one too many, "other": an upstream names them, and each is a series for good."""
        if tier not in self._tiers and len(self._tiers) < _MOST_TIERS:
            self._tiers.add(tier)
        return tier if tier in self._tiers else "other"

    def text(self) -> bytes:
        """All metrics in Prometheus's text format."""
        self.refresh()
        return generate_latest(self.registry)

    def _uplink_counters(self) -> dict[str, tuple[Counter, Counter]]:
        """Bytes and samples, for each form in which samples are sent."""
        sizes = self._counter("uplink_bytes", "Bytes sent to the upstream, framing included.", "sent")
        samples = self._counter("uplink_samples", "Samples sent to the upstream.", "sent")
        forms = (*get_args(Sent), _UNANSWERED)
        return {sent: (sizes.labels(sent), samples.labels(sent)) for sent in forms}

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"offramp_{name}", text, labels, registry=self._own)

    def _histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(f"offramp_{name}", text, labels, buckets=tuple(buckets), registry=self._own)

    def _gauge(self, name: str, text: str, *labels: str, mode: _Mode = "livemin") -> Gauge:
        return Gauge(f"offramp_{name}", text, labels, registry=self._own, multiprocess_mode=mode)


def _of_all_processes() -> CollectorRegistry:
    registry = CollectorRegistry()
    # prometheus-client asks for the process id at every count. A node does not fork, so it never changes.
    process = os.getpid()
    values.ValueClass = values.MultiProcessValue(lambda: process)  # type: ignore[no-untyped-call] # untyped
    _forget_ended(Path(os.environ[SHARED_BY]))
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry


def _with_process_figures(registry: CollectorRegistry) -> CollectorRegistry:
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry


def _forget_ended(directory: Path) -> None:
    """Remove what ended processes left behind in the gauges."""
    for file in directory.glob("gauge_live*.db"):
        pid = int(file.stem.rpartition("_")[2])
        if not Path(f"/proc/{pid}").exists():
            multiprocess.mark_process_dead(pid, str(directory))  # type: ignore[no-untyped-call]


def _theta(read: _Policy, at: int) -> float:
    return read()[0][at]


def _is_in_force(read: _Policy, point: str) -> float:
    return float((read()[1] or "") == point)
