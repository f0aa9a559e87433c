"""A call: the samples of one request, and the settings that apply to all of them.

The same record goes from the front door through the tier and on to the upstream. Its deadline is a point in time on the
clock of `time.monotonic`; only the wire carries the seconds that are left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.engine.payload import Sent
from offramp.engine.tier import Handover, Outcome


@dataclass(frozen=True, eq=False, slots=True)
class Sample:
    """One sample of a call, and how far it has got.

    image: the JPEG, PNG or WebP file it came as; None if it came as anything else. In a call that sends pixels, these,
    encoded. num_pixels: according to the header of that file. handover: what this node's tier hands over to the next.
    """

    request_id: str
    image: bytes | None = None
    num_pixels: int = 0
    handover: Handover | None = None

    @property
    def feature(self) -> NDArray[Any]:
        """The feature that was handed over, for this one sample."""
        assert self.handover is not None, "a sample on its way to the next tier was handed over"
        return self.handover.feature


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Call:
    """Samples that go through the blocks together.

    Args:
        samples: at least one.
        thetas: θ of every exit but the last.
        first_block: block to begin with; block 1 takes images, every other block features.
        load: decodes the input (B, …) of the first block when its turn comes; None on the way to the next tier.
        is_light: whether decoding is known to be a small part of the work.
        deadline: when the caller stops waiting for the answer, on the clock of `time.monotonic`.
        traceparent: the caller's span, in W3C format.
        sent: on the way to the next tier, what its samples travel as; all but features go to block 1.
    """

    samples: Sequence[Sample]
    thetas: tuple[float, ...]
    first_block: int
    load: Callable[[], NDArray[Any]] | None = None
    is_light: bool = False
    deadline: float = math.inf
    traceparent: str | None = None
    sent: Sent = "feature"

    def input(self) -> NDArray[Any]:
        """Input (B, …) of the first block: what `load` decodes, or the features that were handed over."""
        return self.load() if self.load else self.features

    @property
    def features(self) -> NDArray[Any]:
        """The features (B, …) that were handed over."""
        if len(self.samples) == 1:
            return self.samples[0].feature[np.newaxis]
        return np.stack([sample.feature for sample in self.samples])

    def rest(self, outcomes: Sequence[Outcome], *, deadline: float, traceparent: str | None) -> Call:
        """The call for the next tier, with the samples that were handed over.

        Args:
            outcomes: of this call's samples, in order; at least one is a handover.
            deadline: when this node stops waiting for the next tier.
            traceparent: parent of the next tier's spans.
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
