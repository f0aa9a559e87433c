"""Merges the samples that different requests offload at about the same time into one call.

A call costs both sides several times as much as a small block, and another sample in it costs next to nothing.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from offramp.errors import OffloadError
from offramp.serving.answers import Answers, Classified
from offramp.serving.call import Call
from offramp.serving.crowd import Crowd
from offramp.serving.offload.offloader import Accepts, Offloader, UpstreamState
from offramp.serving.offload.portions import portions

_MAX_SAMPLES = 32
# Beyond this the bytes cost more than the call, and the first sample would wait until the last one has arrived.
_MAX_BYTES = 65_536
# Decoding more takes several milliseconds, and a small photo would wait for a large one.
_MAX_PIXELS = 1_000_000
# So often in a row a request waits although nobody comes; then none does for a while, or until two come by themselves.
_MOST_IN_VAIN = 4
_PAUSE_S = 1.0


@dataclass(frozen=True, eq=False, slots=True)
class _Asked:
    call: Call
    answer: asyncio.Future[Answers]

    @property
    def key(self) -> tuple[object, ...]:
        """Requests with the same key can share a call; their time left agrees within a factor of two."""
        call = self.call
        exponent = math.frexp(call.deadline - time.monotonic())[1]
        return call.sent, call.first_block, call.thetas, call.traceparent, exponent

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Number of samples, an upper bound on their bytes, and pixels to decode."""
        samples = self.call.samples
        if self.call.sent == "feature":
            return len(samples), sum(sample.feature.nbytes for sample in samples), 0
        num_bytes = sum(len(sample.image or b"") for sample in samples)
        return len(samples), num_bytes, sum(sample.num_pixels for sample in samples)


class SharedCalls:
    """An `Offloader` that asks another one, for several requests at once."""

    def __init__(self, upstream: Offloader, crowd: Crowd, *, window_s: float) -> None:
        """Prepare; nothing is asked yet.

        Args:
            upstream: the offloader that is called.
            crowd: who else may be about to ask. If nobody is, a request waits only for those of the same round of the
                event loop.
            window_s: the longest that a request waits for others, in seconds.
        """
        self._upstream = upstream
        self._crowd = crowd
        self._window_s = window_s
        self._in_vain = 0
        self._paused_until = 0.0
        self._has_waited = False  # those that wait now
        self._waiting: list[_Asked] = []
        self._timer: asyncio.Handle | None = None
        self._under_way: set[asyncio.Task[None]] = set()

    @property
    def state(self) -> UpstreamState:
        """Whether the upstream is currently in use."""
        return self._upstream.state

    @property
    def accepts(self) -> Accepts:
        """What the upstream accepts in one call."""
        return self._upstream.accepts

    @property
    def under_way(self) -> int:
        """How many calls are in progress."""
        return len(self._under_way)

    async def resume(self, call: Call) -> Answers:
        """Finish samples upstream; see `Offloader.resume`."""
        loop = asyncio.get_running_loop()
        asked = _Asked(call, loop.create_future())
        self._waiting.append(asked)
        if not self._can_wait(call, loop.time()):
            if self._timer:
                self._timer.cancel()
            self._timer = loop.call_soon(self._send)
        else:
            if self._timer is None:
                self._has_waited = True
                self._timer = loop.call_later(self._window_s, self._send)
            self._crowd.tell(self._send)
        return await asked.answer

    def _can_wait(self, call: Call, now: float) -> bool:
        # The last one that can be expected does not let the others wait any longer; a traced one shares with nobody.
        pays = self._window_s > 0 and now >= self._paused_until
        return pays and call.traceparent is None and not self._crowd.is_all_asking

    def _send(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = [each for each in self._waiting if not each.answer.done()], []
        self._learn(len(waiting))
        for together in self._portions(waiting):
            task = asyncio.create_task(self._ask(together))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
            _cancel_once_all_left(task, together)

    def _learn(self, together: int) -> None:
        """Whether waiting pays, from how many requests go now."""
        waited, self._has_waited = self._has_waited, False
        if together > 1:
            self._in_vain, self._paused_until = 0, 0.0
        elif waited:
            self._in_vain += 1
            if self._in_vain == _MOST_IN_VAIN:
                self._in_vain, self._paused_until = 0, asyncio.get_running_loop().time() + _PAUSE_S

    def _portions(self, waiting: Sequence[_Asked]) -> Iterator[Sequence[_Asked]]:
        """Requests that share a call; the samples of one request stay together."""
        if len(waiting) == 1:
            yield waiting
            return
        by_key: dict[tuple[object, ...], list[_Asked]] = {}
        for each in waiting:
            by_key.setdefault(each.key, []).append(each)
        accepts = self._upstream.accepts
        for alike in by_key.values():
            limit = _limit(accepts, is_feature=alike[0].call.sent == "feature")
            yield from portions([(each, each.sizes) for each in alike], limit)

    async def _ask(self, together: Sequence[_Asked], wasted_bytes: int = 0) -> None:
        """Ask for all of them; `wasted_bytes` were sent for each sample in an earlier call that failed."""
        try:
            answers = await self._upstream.resume(_merged([each.call for each in together]))
        except Exception as error:  # noqa: BLE001 - it is raised in the requests that wait
            if isinstance(error, OffloadError):
                if error.blames_request and len(together) > 1:
                    # Only one of the requests may be at fault, so send each again on its own.
                    await asyncio.gather(*(self._ask([each], error.uplink_bytes) for each in together))
                    return
                error.uplink_bytes += wasted_bytes
            for each in together:
                if not each.answer.done():
                    each.answer.set_exception(error)
            return
        _hand_out(together, answers, wasted_bytes)


def _hand_out(together: Sequence[_Asked], answers: Answers, wasted_bytes: int) -> None:
    """Give each request the answers to its own samples."""
    samples = iter(answers.samples)
    for each in together:
        own: Sequence[Classified] = [next(samples) for _ in each.call.samples]
        if wasted_bytes:
            own = [replace(one, uplink_bytes=one.uplink_bytes + wasted_bytes) for one in own]
        if not each.answer.done():
            each.answer.set_result(Answers(own, answers.times))


def _limit(accepts: Accepts, *, is_feature: bool) -> tuple[int, int, int]:
    """Most samples, bytes and pixels of a shared call."""
    most = min(_MAX_SAMPLES, accepts.max_samples)
    if is_feature:
        return min(most, accepts.max_features), _MAX_BYTES, 0
    return most, min(_MAX_BYTES, accepts.max_bytes), min(_MAX_PIXELS, accepts.max_pixels)


def _cancel_once_all_left(task: asyncio.Task[None], together: Sequence[_Asked]) -> None:
    """Cancel a call as soon as nobody waits for it any more."""

    def left(_: asyncio.Future[Answers]) -> None:
        if all(each.answer.cancelled() for each in together):
            task.cancel()

    for each in together:
        each.answer.add_done_callback(left)


def _merged(calls: Sequence[Call]) -> Call:
    if len(calls) == 1:
        return calls[0]
    return replace(
        calls[0],
        samples=[sample for call in calls for sample in call.samples],
        deadline=min(call.deadline for call in calls),
    )
