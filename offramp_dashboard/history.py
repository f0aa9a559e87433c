"""The last minutes of a node, one step a second, and those steps gathered into bins for a chart."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from offramp_dashboard.rates import Increments, summed, total

SECONDS = 600
SAMPLES = "offramp_samples_total"


@dataclass(frozen=True)
class Step:
    """What a node's counters gained in the seconds up to `at`, in whole seconds of the clock."""

    at: int
    seconds: float
    gained: Increments


@dataclass(frozen=True)
class Bin:
    """What the nodes' counters gained up to `at`; None if no node could be read."""

    at: int
    gained: Increments | None
    samples_per_s: float | None


class History:
    """Steps of one node, never more than ten minutes of them."""

    def __init__(self) -> None:
        self._steps: deque[Step] = deque(maxlen=SECONDS)

    def add(self, step: Step) -> None:
        """Add a step and drop those that are too old."""
        self._steps.append(step)
        while self._steps[0].at <= step.at - SECONDS:
            self._steps.popleft()

    def since(self, at: int) -> list[Step]:
        """Steps after that second."""
        return [step for step in self._steps if step.at > at]


def binned(nodes: Sequence[Sequence[Step]], *, until: int, seconds: int, width: int) -> list[Bin]:
    """Gather the steps of several nodes into bins of `width` seconds.

    A bin ends at a multiple of its width, so that a step stays in its bin as time passes. Rates are computed
    per node and then added, because one node may have been unreachable for longer than another.
    """
    last = -(-until // width) * width
    first = last - seconds
    parts: dict[int, list[list[Step]]] = {}
    for steps in nodes:
        own: dict[int, list[Step]] = {}
        for step in steps:
            if first < step.at <= last:
                own.setdefault(-(-step.at // width) * width, []).append(step)
        for at, inside in own.items():
            parts.setdefault(at, []).append(inside)
    return [_bin(at, parts.get(at, ())) for at in range(first + width, last + 1, width)]


def rate_now(bins: Sequence[Bin]) -> float | None:
    """Samples per second in the last seconds; None if no node could be read in them.

    The mean of five seconds, because a single one jumps too much to read; the last two may not have been read yet.
    """
    since = bins[-1].at - 7
    rates = [one.samples_per_s for one in bins if one.at > since and one.samples_per_s is not None][-5:]
    return sum(rates) / len(rates) if rates else None


def _bin(at: int, nodes: Sequence[Sequence[Step]]) -> Bin:
    if not nodes:
        return Bin(at, None, None)
    rates = [
        sum(total(step.gained, SAMPLES) for step in steps) / sum(step.seconds for step in steps)
        for steps in nodes
    ]
    return Bin(at, summed(step.gained for steps in nodes for step in steps), sum(rates))
