"""Decides when calls run: waiting calls share a batch, earliest deadline first, on the event loop or on a worker.

A batch takes the calls that are already waiting, as many as this tier gains from (`gain.py`). No call is held back for
others, unless a window is set. Passing a call to a thread and back takes about as
long as a small network, and threads that share an interpreter slow each other down. So a batch that is expected to be
short runs on the event loop itself, between two rounds of socket I/O.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.engine.tier import Outcome, Tier
from offramp.errors import ExpiredError
from offramp.logs import line
from offramp.serving.call import Call
from offramp.serving.pace import Pace
from offramp.serving.workers import Workers

_log = logging.getLogger("offramp.serving")

_AT_ONCE_S = 0.002
_LAST_S = 5.0  # what a worker is given for its batch when the node ends


@dataclass(frozen=True, eq=False, slots=True)
class Ran:
    """Outcomes of one call's samples, in order; milliseconds spent waiting, decoding, and running blocks in a batch."""

    outcomes: Sequence[Outcome]
    queue_ms: float
    load_ms: float
    compute_ms: float


@dataclass(order=True, slots=True)
class _Waiting:
    deadline: float
    number: int
    call: Call = field(compare=False)
    arrived: float = field(compare=False)
    answer: asyncio.Future[Ran] = field(compare=False)

    @property
    def key(self) -> tuple[int, tuple[float, ...]]:
        """Calls with the same key can run in one batch."""
        return self.call.first_block, self.call.thetas


class Batcher:
    """Runs a tier for calls from one event loop."""

    def __init__(
        self,
        tier: Tier,
        *,
        workers: int,
        max_batch: int = 32,
        gaining: int = 1,
        window_s: float = 0.0,
        at_once_s: float = _AT_ONCE_S,
    ) -> None:
        """Prepare; nothing runs yet.

        Args:
            tier: what to run.
            workers: threads for long batches.
            max_batch: most samples in a batch of several calls.
            gaining: largest batch in which a sample takes less time than in a smaller one.
            window_s: how long a call is held back for others, in seconds.
            at_once_s: longest time that batches may block the event loop, in seconds.
        """
        self._tier = tier
        self._free = workers
        self._workers = Workers(workers)
        self._max_batch = max_batch
        self._gaining = gaining
        self._window_s = window_s
        self._at_once_s = at_once_s
        self._waiting: list[_Waiting] = []
        self._numbers = count()
        self._is_woken = False
        self._is_closed = False
        self._pace = Pace()
        self._begun: set[float] = set()  # when each batch that is on a worker began
        self._left = math.inf  # when the loop last returned to its sockets with calls still waiting

    async def run(self, call: Call) -> Ran:
        """Run one call's samples, alone or together with other waiting calls.

        Raises:
            ExpiredError: the deadline passed while the call was queued; nothing was run.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Ran] = loop.create_future()
        heapq.heappush(
            self._waiting, _Waiting(call.deadline, next(self._numbers), call, time.perf_counter(), answer)
        )
        self._wake(loop)
        return await answer

    @property
    def longest_s(self) -> float:
        """For how long the oldest batch has been on a worker, in seconds; 0 if none is."""
        return time.perf_counter() - min(self._begun) if self._begun else 0.0

    def close(self) -> None:
        """Let the workers finish the batches they have begun, for some seconds; waiting calls are cancelled."""
        self._is_closed = True
        for waiting in self._waiting:
            waiting.answer.cancel()
        if not self._workers.stop(within_s=_LAST_S):
            _log.warning(
                line("stuck", detail=f"a worker was busy for {self.longest_s:.0f} s; it ends with the node")
            )

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._is_woken or self._is_closed:
            return
        self._is_woken = True
        if self._window_s:
            loop.call_later(self._window_s, self._dispatch, loop)
        else:
            # After everything else that arrives in this round of the loop, so that it shares the batch.
            loop.call_soon(self._dispatch, loop)

    def _dispatch(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_woken = False
        begun = time.perf_counter()
        # At least as long as the loop spent on its sockets: otherwise refusals would starve the calls we accepted.
        until = begun + max(self._at_once_s, begun - self._left)
        while self._free and (batch := self._take()):
            if self._is_over_at_once(batch):
                self._hand_out(batch, self._run(batch))
                if (now := time.perf_counter()) < until:
                    continue
                self._left = now
                if self._waiting:
                    self._wake(loop)
                return
            self._free -= 1
            self._begun.add(now := time.perf_counter())
            self._workers.submit(partial(self._run, batch), partial(self._done, loop, batch, now))
        # The loop can now be idle, and idle time must not count as time spent on its sockets.
        self._left = math.inf

    def _take(self) -> list[_Waiting]:
        """The next batch: the call with the earliest deadline, and the calls after it that can share its run."""
        batch: list[_Waiting] = []
        samples, limit = 0, 0
        while self._waiting:
            first = self._waiting[0]
            if first.answer.done():  # cancelled: the caller has gone
                heapq.heappop(self._waiting)
            elif first.deadline <= time.monotonic():
                heapq.heappop(self._waiting).answer.set_exception(_expired())
            elif not batch:
                batch.append(heapq.heappop(self._waiting))
                samples, limit = len(first.call.samples), self._limit(first)
            elif first.key == batch[0].key and samples + len(first.call.samples) <= limit:
                batch.append(heapq.heappop(self._waiting))
                samples += len(first.call.samples)
            else:
                break
        return batch

    def _limit(self, first: _Waiting) -> int:
        """Most samples in a batch: as many as gain, or as the loop can run at once, or all that a window collects."""
        if self._window_s:
            return self._max_batch
        # What gains in one batch may gain more on several workers.
        gaining = min(self._gaining, math.ceil((1 + len(self._waiting)) / self._free))
        return min(
            self._max_batch, max(gaining, self._pace.most_within(first.call.first_block, self._at_once_s))
        )

    def _is_over_at_once(self, batch: Sequence[_Waiting]) -> bool:
        samples = sum(len(waiting.call.samples) for waiting in batch)
        expected_s = self._pace.expected_s(batch[0].call.first_block, samples)
        return expected_s <= self._at_once_s and all(waiting.call.is_light for waiting in batch)

    def _run(self, batch: Sequence[_Waiting]) -> Sequence[Ran | Exception]:
        try:
            return self._decode_and_run(batch)
        except BaseException as error:  # noqa: BLE001 - it is raised in the calls of the batch
            return [_as_exception(error)] * len(batch)

    def _decode_and_run(self, batch: Sequence[_Waiting]) -> Sequence[Ran | Exception]:
        """Decode each call on its own, so that a call that cannot be decoded fails alone, and run the rest together."""
        started = time.perf_counter()
        inputs: list[NDArray[Any]] = []
        found: list[Ran | Exception] = []
        loads_ms: dict[int, float] = {}
        for at, waiting in enumerate(batch):
            before = time.perf_counter()
            try:
                inputs.append(waiting.call.input())
                loads_ms[at] = _ms(before, time.perf_counter())
                found.append(_UNDECIDED)
            except Exception as error:  # noqa: BLE001 - it is raised in its own call
                found.append(error)
        if not inputs:
            return found
        loaded = time.perf_counter()
        first = batch[0].call
        together = inputs[0] if len(inputs) == 1 else np.concatenate(inputs)
        outcomes = iter(self._tier.run(together, first.thetas, first_block=first.first_block))
        done = time.perf_counter()
        for at, load_ms in loads_ms.items():
            own = [next(outcomes) for _ in range(len(batch[at].call.samples))]
            found[at] = Ran(own, _ms(batch[at].arrived, started), load_ms, _ms(loaded, done))
        self._pace.learn(first.first_block, len(together), done - started)
        return found

    def _done(
        self,
        loop: asyncio.AbstractEventLoop,
        batch: Sequence[_Waiting],
        begun: float,
        found: Sequence[Ran | Exception],
    ) -> None:
        self._free += 1
        self._begun.discard(begun)
        self._hand_out(batch, found)
        if self._waiting:
            self._wake(loop)

    def _hand_out(self, batch: Sequence[_Waiting], found: Sequence[Ran | Exception]) -> None:
        for waiting, each in zip(batch, found, strict=True):
            if waiting.answer.done():
                continue
            if isinstance(each, Ran):
                waiting.answer.set_result(each)
            else:
                waiting.answer.set_exception(each)


_UNDECIDED = Ran((), 0.0, 0.0, 0.0)


def _expired() -> ExpiredError:
    return ExpiredError(
        "the call's deadline passed while it was queued; set a later deadline, or send fewer calls"
    )


def _as_exception(error: BaseException) -> Exception:
    """What callers and servers catch: a library in Rust that panics raises what is no `Exception`."""
    if isinstance(error, Exception):
        return error
    found = RuntimeError(f"{type(error).__name__}: {error}")
    found.__cause__ = error
    return found


def _ms(start: float, stop: float) -> float:
    return (stop - start) * 1000
