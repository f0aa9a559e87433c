"""Makes a call again while its first attempt is unusually slow, or as soon as that failed.

Where an upstream has several replicas, round-robin takes another attempt to another one. A budget keeps these attempts
few, so that an upstream which is slow because it is overloaded does not get several times the work.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

from offramp.errors import OffloadError, OffloadReason

Reply = TypeVar("Reply")

# Between two attempts other calls take their turns, so that the second may come to the same replica as the first.
_MOST_ATTEMPTS = 3
_KEPT = 100  # latencies
_EVERY = 10  # answers between two estimates
_UNUSUAL = 3.0  # times the 95th percentile
_LEAST_S = 0.03
_MOST_SHARE = 0.3  # of the time that is left
_BURST = 20.0
_PER_CALL = 0.05
# A late call has no time left, and gRPC itself repeats what was not delivered.
_REPEATED = {OffloadReason.REFUSED, OffloadReason.MISMATCH}


class Hedge:
    """Decides when a call is made again, from how long the recent ones took. For one event loop."""

    def __init__(self) -> None:
        """Know nothing yet: the first calls are waited for longest."""
        self._recent_s: deque[float] = deque(maxlen=_KEPT)
        self._answers = 0
        self._unusual_s = math.inf
        self._budget = _BURST

    async def ask(self, attempt: Callable[[], Awaitable[Reply]], *, timeout_s: float) -> Reply:
        """The first answer of a few attempts; the others are cancelled.

        Args:
            attempt: makes the call.
            timeout_s: how long an attempt may take, in seconds.

        Raises:
            OffloadError: no attempt was answered; the error is that of the first one.
        """
        self._budget = min(_BURST, self._budget + _PER_CALL)
        attempts: dict[asyncio.Future[Reply], float] = {}
        _begin(attempt, attempts)
        try:
            return await self._first_answer(attempt, attempts, timeout_s)
        finally:
            for each in attempts:
                each.cancel()

    def patience_s(self, timeout_s: float) -> float:
        """How long an attempt is waited for before the next is made, in seconds; by chance a little more or less.

        Otherwise a call's attempts could keep step with other calls, and all come to the same replica.
        """
        return random.uniform(0.7, 1.3) * min(max(_LEAST_S, self._unusual_s), _MOST_SHARE * timeout_s)

    async def _first_answer(
        self,
        attempt: Callable[[], Awaitable[Reply]],
        attempts: dict[asyncio.Future[Reply], float],
        timeout_s: float,
    ) -> Reply:
        while True:
            is_last = len(attempts) == _MOST_ATTEMPTS
            done, _ = await asyncio.wait(
                [each for each in attempts if not each.done()],
                timeout=None if is_last or self._budget < 1 else self.patience_s(timeout_s),
                return_when=asyncio.FIRST_COMPLETED,
            )
            for each in done:
                if each.exception() is None:
                    self._learn(asyncio.get_running_loop().time() - attempts[each])
                    # Attempts that were of use cost nothing: they show that another replica has time.
                    self._budget += (len(attempts) - 1) * (each is not next(iter(attempts)))
                    return each.result()
            if not is_last and self._budget >= 1 and all(map(_is_worth_repeating, attempts)):
                self._budget -= 1
                _begin(attempt, attempts)
            elif all(each.done() for each in attempts):
                return next(iter(attempts)).result()

    def _learn(self, seconds: float) -> None:
        self._recent_s.append(seconds)
        self._answers += 1
        if self._answers % _EVERY == 0:
            ordered = sorted(self._recent_s)
            self._unusual_s = _UNUSUAL * ordered[int(0.95 * len(ordered))]


def _begin(attempt: Callable[[], Awaitable[Reply]], attempts: dict[asyncio.Future[Reply], float]) -> None:
    """Make an attempt, and note when."""
    attempts[asyncio.ensure_future(attempt())] = asyncio.get_running_loop().time()


def _is_worth_repeating(attempt: asyncio.Future[Reply]) -> bool:
    """Whether it is not over yet, or failed in a way in which another replica may not."""
    if not attempt.done():
        return True
    error = attempt.exception()
    return isinstance(error, OffloadError) and error.reason in _REPEATED and not error.blames_request
