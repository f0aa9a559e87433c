"""What goes through a node as one: the samples of one request, and what holds for all of them.

The same record leads from the front door through the tier and on to the upstream. Time is absolute in it, as
`time.monotonic` counts: only the wire knows seconds left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.engine.tier import Handover, Outcome


@dataclass(frozen=True, eq=False, slots=True)
class Sample:
    """One sample of a call, as far as it got.

    image: the file it came as, JPEG, PNG or WebP; None if it came as a feature. num_pixels: what that file's header
    claims. handover: what this node's tier made of it, on its way to the next one.
    """

    request_id: str
    image: bytes | None = None
    num_pixels: int = 0
    handover: Handover | None = None

    @property
    def feature(self) -> NDArray[Any]:
        """The feature that was handed over, one sample's."""
        assert self.handover is not None, "a sample on its way to the next tier was handed over"
        return self.handover.feature


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Call:
    """Samples that go through the blocks together.

    Args:
        samples: at least one.
        thetas: θ of every exit but the last.
        first_block: where to begin; 1 takes images, every other one features.
        load: makes the input (B, …) of the first block, since decoding is work too; None on the way to the next tier.
        is_light: whether decoding is known to be a small part of the work.
        deadline: moment after which nobody waits for the answer.
        traceparent: the caller's span, as W3C writes it.
    """

    samples: Sequence[Sample]
    thetas: tuple[float, ...]
    first_block: int
    load: Callable[[], NDArray[Any]] | None = None
    is_light: bool = False
    deadline: float = math.inf
    traceparent: str | None = None

    def input(self) -> NDArray[Any]:
        """Input (B, …) of the first block: decoded, or the features that were handed over."""
        return self.load() if self.load else np.stack([sample.feature for sample in self.samples])

    def rest(self, outcomes: Sequence[Outcome], *, deadline: float, traceparent: str | None) -> Call:
        """What is left for the next tier: the samples that were handed over.

        Args:
            outcomes: of this call's samples, in order; at least one is a handover.
            deadline: until when this node waits for the next tier.
            traceparent: span that the next tier's hang below.
        """
        undecided = [
            Sample(sample.request_id, sample.image, sample.num_pixels, outcome)
            for sample, outcome in zip(self.samples, outcomes, strict=True)
            if isinstance(outcome, Handover)
        ]
        first = undecided[0].handover
        assert first is not None
        return Call(
            samples=undecided,
            thetas=self.thetas,
            first_block=first.next_block,
            deadline=deadline,
            traceparent=traceparent,
        )
