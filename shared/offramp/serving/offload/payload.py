"""Chooses what to send upstream for each sample: the feature this tier computed, or the original image.

The network gives the same answer from either, so the smaller one is sent, provided that the upstream accepts it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace

from offramp.serving.answers import Answers
from offramp.serving.call import Call, Sample
from offramp.serving.offload.offloader import Accepts, Offloader, UpstreamState
from offramp.serving.offload.portions import portions


class SmallestPayload:
    """An `Offloader` that splits a call into images and features, and into parts the upstream accepts in one call."""

    def __init__(self, upstream: Offloader, *, feature_bytes: float) -> None:
        """Send to `upstream`; `feature_bytes` is the expected size of one feature."""
        self._upstream = upstream
        self._feature_bytes = feature_bytes

    @property
    def state(self) -> UpstreamState:
        """Whether the upstream is currently in use."""
        return self._upstream.state

    @property
    def accepts(self) -> Accepts:
        """What the upstream accepts in one call."""
        return self._upstream.accepts

    async def resume(self, call: Call) -> Answers:
        """Finish samples upstream; see `Offloader.resume`."""
        accepts = self._upstream.accepts
        images = [at for at, sample in enumerate(call.samples) if self._goes_as_image(sample, accepts)]
        if not images and len(call.samples) <= accepts.max_samples:
            return await self._upstream.resume(call)
        parts = list(_parts(call, images, accepts))
        if len(parts) == 1:
            return await self._upstream.resume(_part(call, *parts[0]))
        found = await asyncio.gather(*(self._upstream.resume(_part(call, *part)) for part in parts))
        by_place = {
            at: sample
            for (places, _), answers in zip(parts, found, strict=True)
            for at, sample in zip(places, answers.samples, strict=True)
        }
        slowest = max(found, key=_total_ms)
        return Answers([by_place[at] for at in range(len(call.samples))], slowest.times)

    def _goes_as_image(self, sample: Sample, accepts: Accepts) -> bool:
        return (
            accepts.images
            and sample.image is not None
            and len(sample.image) < self._feature_bytes
            and sample.num_pixels <= accepts.max_pixels
        )


def _parts(call: Call, images: Sequence[int], accepts: Accepts) -> Iterator[tuple[list[int], int]]:
    """Positions of the samples that are sent together, and the block they go to."""
    sized = [(at, (1, call.samples[at].num_pixels)) for at in images]
    for places in portions(sized, (accepts.max_samples, accepts.max_pixels)):
        yield places, 1
    features = set(range(len(call.samples))).difference(images)
    for places in portions([(at, (1,)) for at in sorted(features)], (accepts.max_samples,)):
        yield places, call.first_block


def _part(call: Call, places: Sequence[int], first_block: int) -> Call:
    return replace(call, samples=[call.samples[at] for at in places], first_block=first_block)


def _total_ms(answers: Answers) -> float:
    return sum(time.queue_ms + time.compute_ms for time in answers.times)
