"""The figures on the pages, computed from increments of the counters."""

from __future__ import annotations

import re
from dataclasses import dataclass

from offramp_dashboard.history import SAMPLES
from offramp_dashboard.rates import Increments, buckets, by_labels, quantile, total

QUANTILES = (0.5, 0.95, 0.99)


@dataclass(frozen=True, order=True)
class Leaving:
    """One way to leave: an exit, the tier it answered on, and whether the answer was degraded."""

    depth: int
    exit: str
    tier: str
    degraded: bool

    @property
    def name(self) -> str:
        """Its name in the charts."""
        return f"{self.exit} · {self.tier}" + (" · degraded" if self.degraded else "")


@dataclass(frozen=True)
class Latency:
    """Quantiles of the whole time that samples of an exit spend in the node, in milliseconds."""

    exit: str
    answers: int
    quantiles_ms: tuple[float | None, ...]


@dataclass(frozen=True)
class Payload:
    """What was sent upstream in one form, as `sent` names it in the metrics: how many samples, and bytes of each."""

    sent: str
    samples: int
    bytes_each: float


@dataclass(frozen=True)
class Serving:
    """What a cloud node does for the tiers before it; None if nothing was counted."""

    calls_per_s: float | None
    samples_per_call: float | None
    waiting_ms: float | None
    computing_ms: float | None
    refused: float


def serving_of(gained: Increments, seconds: float) -> Serving:
    """Summarise the calls of `seconds`; waiting for a worker and computing are 95th percentiles of a call."""
    calls = total(gained, "offramp_batch_samples_count")
    waiting, computing = (
        quantile(buckets(gained, "offramp_stage_seconds", stage=stage), 0.95) for stage in ("queue", "blocks")
    )
    return Serving(
        calls / seconds if seconds else None,
        total(gained, "offramp_batch_samples_sum") / calls if calls else None,
        None if waiting is None else waiting * 1000,
        None if computing is None else computing * 1000,
        total(gained, "offramp_refused_total"),
    )


def leavings(gained: Increments) -> dict[Leaving, float]:
    """How many samples left where, shallow exits first."""
    counted = by_labels(gained, SAMPLES, "exit", "tier", "outcome")
    named = {
        Leaving(_depth(exit), exit, tier, outcome == "degraded"): count
        for (exit, tier, outcome), count in counted.items()
    }
    return dict(sorted(named.items()))


def exit_shares(gained: Increments) -> dict[str, float]:
    """Share of the samples that left at each exit, degraded answers included; empty without samples."""
    counted = by_labels(gained, SAMPLES, "exit")
    samples = sum(counted.values())
    return {exit: count / samples for (exit,), count in counted.items()} if samples else {}


def latencies(gained: Increments) -> list[Latency]:
    """Quantiles of every exit that answered, shallow first."""
    counted = by_labels(gained, "offramp_sample_seconds_count", "exit")
    return [
        Latency(exit, round(counted[(exit,)]), latency_of(gained, exit))
        for exit in sorted((exit for (exit,) in counted), key=_depth)
    ]


def latency_of(gained: Increments, exit: str | None = None) -> tuple[float | None, ...]:
    """Quantiles of one exit, or of all of them together, in milliseconds."""
    cumulative = buckets(gained, "offramp_sample_seconds", **({"exit": exit} if exit else {}))
    found = (quantile(cumulative, q) for q in QUANTILES)
    return tuple(None if value is None else value * 1000 for value in found)


def uplink_bytes(gained: Increments) -> float | None:
    """Bytes sent upstream for each sample; None without samples."""
    samples = total(gained, SAMPLES)
    return total(gained, "offramp_uplink_bytes_total") / samples if samples else None


def payloads(gained: Increments) -> list[Payload]:
    """What was sent upstream, the most frequent form first."""
    sizes = by_labels(gained, "offramp_uplink_bytes_total", "sent")
    counted = by_labels(gained, "offramp_uplink_samples_total", "sent")
    found = [Payload(sent, round(n), sizes.get((sent,), 0.0) / n) for (sent,), n in counted.items()]
    return sorted(found, key=lambda one: (-one.samples, one.sent))


def uplink_bytes_by_form(gained: Increments) -> dict[str, float]:
    """Bytes sent upstream in each form, for each sample, whether it was offloaded or not; empty without samples."""
    samples = total(gained, SAMPLES)
    sizes = by_labels(gained, "offramp_uplink_bytes_total", "sent")
    return {sent: size / samples for (sent,), size in sizes.items()} if samples else {}


def photo_bytes(gained: Increments) -> float | None:
    """Bytes of the photo for each sample, which is what sending every photo would cost."""
    samples = total(gained, SAMPLES)
    return total(gained, "offramp_image_bytes_total") / samples if samples else None


def share_on(gained: Increments, tiers: set[str]) -> float | None:
    """Share of the samples answered on these tiers because an exit there was confident, not because of a fault."""
    counted = by_labels(gained, SAMPLES, "tier", "outcome")
    samples = sum(counted.values())
    sure = sum(n for (tier, outcome), n in counted.items() if tier in tiers and outcome == "ok")
    return sure / samples if samples else None


def reasons(gained: Increments) -> list[tuple[str, str, int]]:
    """What went wrong: (degraded or refused, why, how often), the most frequent first."""
    found = [
        *(
            ("degraded", why, n)
            for (why,), n in by_labels(gained, "offramp_degraded_total", "reason").items()
        ),
        *(("refused", why, n) for (why,), n in by_labels(gained, "offramp_refused_total", "code").items()),
    ]
    return [(kind, why, round(n)) for kind, why, n in sorted(found, key=lambda row: -row[2])]


def _depth(exit: str) -> int:
    # exit-1, exit-2, …, final: the last one has no number and comes after all others.
    found = re.fullmatch(r"exit-([0-9]{1,4})", exit)
    return int(found[1]) if found else 10_000
