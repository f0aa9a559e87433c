"""Keeps refusals from taking the time of answers."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from time import monotonic

from uvicorn.protocols.http.flow_control import FlowControl

from offramp.serving.http.limits import AT_ONCE_S, REFUSED_PER_S, REST_S, WOKEN_PER_ANSWER


class RefusalPace:
    """How long a connection that was refused, and asks again at once, is left unread.

    Clients that do not wait as Retry-After says ask as fast as they are refused. Then parsing and refusing them takes
    the time that the answers need. So their refusals have a rate. Beyond it their connections rest, while TCP holds the
    clients back; each answer wakes those that have rested for longest, so that a place that is free is soon taken.
    """

    def __init__(self) -> None:
        self._credit = float(REFUSED_PER_S)
        self._last = monotonic()
        self._resting: OrderedDict[Rest, None] = OrderedDict()

    def refused(self) -> float:
        """Count a refusal of a client that asked again at once; returns for how many seconds it is to rest."""
        now = monotonic()
        refilled = self._credit + (now - self._last) * REFUSED_PER_S
        self._credit = max(min(refilled, REFUSED_PER_S) - 1, -REFUSED_PER_S * REST_S)
        self._last = now
        return max(0.0, -self._credit / REFUSED_PER_S)

    def rests(self, rest: Rest) -> None:
        """A connection rests from now on, until it is woken or its time is over."""
        self._resting[rest] = None

    def ends(self, rest: Rest) -> None:
        """A connection rests no more."""
        self._resting.pop(rest, None)

    def answered(self) -> None:
        """Wake some, for there is a place."""
        for _ in range(min(WOKEN_PER_ANSWER, len(self._resting))):
            self._resting.popitem(last=False)[0].wake()


class Rest:
    """The rests of one connection: times in which it is left unread."""

    def __init__(self, pace: RefusalPace, flow: FlowControl, loop: asyncio.AbstractEventLoop) -> None:
        self._pace = pace
        self._flow = flow
        self._loop = loop
        self._alarm: asyncio.TimerHandle | None = None
        self._asked_at, self._refused_at = 0.0, -math.inf

    def asked(self) -> None:
        """A request begins."""
        self._asked_at = self._loop.time()

    def refused(self) -> None:
        """A request was refused: the connection rests if its client asked at once after the last refusal."""
        if self._asked_at - self._refused_at < AT_ONCE_S and (rest_s := self._pace.refused()):
            self._flow.pause_reading()
            self._pace.rests(self)
            self._alarm = self._loop.call_later(rest_s, self.wake)
        self._refused_at = self._loop.time()

    def wake(self) -> None:
        """Read the connection again."""
        self.end()
        if self._flow.read_paused:
            self._refused_at = self._loop.time()
            self._flow.resume_reading()

    def end(self) -> None:
        """Rest no more: it is woken, or lost."""
        self._pace.ends(self)
        if self._alarm is not None:
            self._alarm.cancel()
