"""Sends each sample as what its bundle says: the feature, the original image, or the picture that block 1 took.

Calls are split accordingly, and into parts that the upstream accepts in one call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from offramp.engine.payload import PayloadRule, Sent
from offramp.errors import OffloadError
from offramp.serving.answers import Answers, Classified
from offramp.serving.call import Call, Sample
from offramp.serving.offload.offloader import Accepts, Offloader, UpstreamState
from offramp.serving.offload.portions import portions
from offramp.wire.messages import BYTES_OF_SAMPLE

# Encoding a picture of more raw bytes takes a millisecond or more.
_AT_ONCE_BYTES = 64 * 64 * 3


class ChosenPayloads:
    """An `Offloader` that decides what each sample is sent as, and leaves the sending to another one."""

    def __init__(self, upstream: Offloader, rule: PayloadRule, *, passed_exits: int) -> None:
        """Send to `upstream`; `passed_exits` is the number of exits before the split point."""
        self._upstream = upstream
        self._rule = rule
        self._passed_exits = passed_exits

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
        if not accepts.besides_features and len(call.samples) <= min(
            accepts.max_samples, accepts.max_features
        ):
            return await self._upstream.resume(call)
        choose = partial(self._chosen, call, accepts)
        chosen = choose() if self._is_quick(call, accepts) else await asyncio.to_thread(choose)
        parts = list(self._parts(call, chosen, accepts))
        if len(parts) == 1:
            return await self._upstream.resume(parts[0][1])
        found = await asyncio.gather(
            *(self._upstream.resume(part) for _, part in parts), return_exceptions=True
        )
        return _joined([(places, each) for (places, _), each in zip(parts, found, strict=True)])

    def _is_quick(self, call: Call, accepts: Accepts) -> bool:
        takes_pixels = "pixels" in accepts.besides_features
        return not takes_pixels or len(call.samples) * self._rule.raw_bytes <= _AT_ONCE_BYTES

    def _chosen(self, call: Call, accepts: Accepts) -> Mapping[int, tuple[Sent, Sample]]:
        """What each sample that is not sent as its feature is sent as, by its place in the call."""
        chosen = {}
        for at, sample in enumerate(call.samples):
            image_bytes = len(sample.image or b"")
            if sample.num_pixels > accepts.max_pixels or image_bytes + BYTES_OF_SAMPLE > accepts.max_bytes:
                image_bytes = 0
            pixels = sample.handover.pixels if sample.handover else None
            sent, encoded = self._rule.choose(image_bytes, pixels, accepts.besides_features)
            if sent == "pixels":
                assert pixels is not None
                height, width = pixels.shape[:2]
                sample = replace(sample, image=encoded, num_pixels=height * width)
            if sent != "feature":
                chosen[at] = sent, sample
        return chosen

    def _parts(
        self, call: Call, chosen: Mapping[int, tuple[Sent, Sample]], accepts: Accepts
    ) -> Iterator[tuple[Sequence[int], Call]]:
        """Places of the samples that are sent together, and the call that sends them."""
        # The exits passed here were not confident. Where the upstream runs them again, they must not answer after all.
        thetas = (1.0,) * self._passed_exits + call.thetas[self._passed_exits :]
        for kind in ("image", "pixels"):
            samples = {at: sample for at, (sent, sample) in chosen.items() if sent == kind}
            sized = [
                (at, (1, sample.num_pixels, len(sample.image or b"") + BYTES_OF_SAMPLE))
                for at, sample in samples.items()
            ]
            for places in portions(sized, (accepts.max_samples, accepts.max_pixels, accepts.max_bytes)):
                together = [samples[at] for at in places]
                yield places, replace(call, samples=together, first_block=1, thetas=thetas, sent=kind)
        features = [(at, (1,)) for at in range(len(call.samples)) if at not in chosen]
        for places in portions(features, (min(accepts.max_samples, accepts.max_features),)):
            yield places, replace(call, samples=[call.samples[at] for at in places])


def _joined(parts: Sequence[tuple[Sequence[int], Answers | BaseException]]) -> Answers:
    """The answers of all parts, by the places of their samples; a part that failed fails for its own samples only."""
    answered: dict[int, Classified] = {}
    failed: dict[int, OffloadError] = {}
    whole = [found for _, found in parts if isinstance(found, Answers)]
    for places, found in parts:
        if isinstance(found, Answers):
            answered |= zip(places, found.samples, strict=True)
        elif isinstance(found, OffloadError) and whole:
            failed |= dict.fromkeys(places, found)
        else:
            raise found
    slowest = max(whole, key=_total_ms)
    return Answers([answered[at] for at in sorted(answered)], slowest.times, failed)


def _total_ms(answers: Answers) -> float:
    return sum(time.queue_ms + time.compute_ms for time in answers.times)
