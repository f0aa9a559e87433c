"""Samples that different requests offload at about the same time go upstream in one call.

A call costs both sides several times what a small block does, and next to nothing more for another sample in it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from offramp.engine.tier import Handover
from offramp.errors import OffloadError
from offramp.serving.offload.offloader import Offloader, Resumed, UpstreamState

_MAX_SAMPLES = 32
# Beyond that, bytes cost more than the call, and the first sample would wait for the last one's to arrive.
_MAX_BYTES = 65_536


@dataclass(frozen=True, eq=False, kw_only=True)
class _Asked:
    handovers: Sequence[Handover]
    thetas: tuple[float, ...]
    request_ids: Sequence[str]
    deadline: float
    images: Sequence[bytes] | None
    traceparent: str | None
    answer: asyncio.Future[Resumed]

    @property
    def num_bytes(self) -> int:
        """At most, of what is sent."""
        return sum(handover.feature.nbytes for handover in self.handovers)

    def key(self) -> tuple[object, ...]:
        """What requests have to agree in to share a call; their time left, within a factor of two."""
        exponent = math.frexp(self.deadline - time.monotonic())[1]
        return (
            self.handovers[0].next_block,
            self.thetas,
            self.images is None,
            self.traceparent,
            exponent,
        )


class SharedCalls:
    """An `Offloader` that asks another one, for several requests at once."""

    def __init__(self, upstream: Offloader, *, window_s: float) -> None:
        """Prepare; nothing is asked yet.

        Args:
            upstream: who is asked.
            window_s: how long a request waits for others, in seconds, while a call is under way; with none under way
                only for those of the same round of the loop.
        """
        self._upstream = upstream
        self._window_s = window_s
        self._waiting: list[_Asked] = []
        self._timer: asyncio.Handle | None = None
        self._under_way: set[asyncio.Task[None]] = set()

    @property
    def state(self) -> UpstreamState:
        """Whether the upstream is being asked at the moment."""
        return self._upstream.state

    async def resume(
        self,
        handovers: Sequence[Handover],
        *,
        thetas: Sequence[float],
        request_ids: Sequence[str],
        timeout_s: float,
        images: Sequence[bytes] | None = None,
        traceparent: str | None = None,
    ) -> Resumed:
        """Finish samples upstream; see `Offloader.resume`."""
        loop = asyncio.get_running_loop()
        asked = _Asked(
            handovers=handovers,
            thetas=tuple(thetas),
            request_ids=request_ids,
            deadline=time.monotonic() + timeout_s,
            images=images,
            traceparent=traceparent,
            answer=loop.create_future(),
        )
        self._waiting.append(asked)
        if self._timer is None:
            waits = self._under_way and self._window_s
            self._timer = loop.call_later(self._window_s, self._send) if waits else loop.call_soon(self._send)
        return await asked.answer

    def _send(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = [each for each in self._waiting if not each.answer.done()], []
        by_key: dict[tuple[object, ...], list[_Asked]] = {}
        for each in waiting:
            by_key.setdefault(each.key(), []).append(each)
        for alike in by_key.values():
            for together in _portions(alike):
                task = asyncio.create_task(self._ask(together))
                self._under_way.add(task)
                task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if self._waiting:
            self._send()

    async def _ask(self, together: Sequence[_Asked]) -> None:
        images = [image for each in together for image in each.images or ()]
        count = sum(len(each.handovers) for each in together)
        try:
            resumed = await self._upstream.resume(
                [handover for each in together for handover in each.handovers],
                thetas=together[0].thetas,
                request_ids=[request_id for each in together for request_id in each.request_ids],
                timeout_s=max(0.0, min(each.deadline for each in together) - time.monotonic()),
                images=images or None,
                traceparent=together[0].traceparent,
            )
        except Exception as error:  # noqa: BLE001 - it is handed to those who wait
            for each in together:
                _fail(each, error, len(each.handovers) / count)
            return
        answers = iter(resumed.answers)
        for each in together:
            own = [next(answers) for _ in each.handovers]
            if not each.answer.done():
                share = math.ceil(resumed.uplink_bytes * len(own) / count)
                each.answer.set_result(Resumed(own, resumed.times, share))


def _portions(alike: Sequence[_Asked]) -> Iterator[list[_Asked]]:
    """As few calls as their limits allow; what one request asks stays together."""
    portion: list[_Asked] = []
    for asked in alike:
        together = [*portion, asked]
        samples = sum(len(each.handovers) for each in together)
        if portion and (samples > _MAX_SAMPLES or sum(each.num_bytes for each in together) > _MAX_BYTES):
            yield portion
            together = [asked]
        portion = together
    yield portion


def _fail(asked: _Asked, error: Exception, share: float) -> None:
    if asked.answer.done():
        return
    if isinstance(error, OffloadError):
        own = OffloadError(str(error), error.reason, uplink_bytes=math.ceil(error.uplink_bytes * share))
        own.__cause__ = error
        error = own
    asked.answer.set_exception(error)
