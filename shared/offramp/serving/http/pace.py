"""Keeps refusals from taking the time of answers."""

from __future__ import annotations

from collections import OrderedDict
from time import monotonic
from typing import Protocol

from offramp.serving.http.limits import REFUSED_PER_S, REST_S, WOKEN_PER_ANSWER


class Resting(Protocol):
    """A connection that is left unread."""

    def wake(self) -> None:
        """Read it again."""
        ...


class RefusalPace:
    """How long a connection that was refused, and asks again at once, is left unread.

    Clients that do not wait as Retry-After says ask as fast as they are refused. Then parsing and refusing them takes
    the time that the answers need. So their refusals have a rate. Beyond it their connections rest, while TCP holds the
    clients back; each answer wakes those that have rested for longest, so that a place that is free is soon taken.
    """

    def __init__(self) -> None:
        self._credit = float(REFUSED_PER_S)
        self._last = monotonic()
        self._resting: OrderedDict[Resting, None] = OrderedDict()

    def refused(self) -> float:
        """Count a refusal of a client that asked again at once; returns for how many seconds it is to rest."""
        now = monotonic()
        refilled = self._credit + (now - self._last) * REFUSED_PER_S
        self._credit = max(min(refilled, REFUSED_PER_S) - 1, -REFUSED_PER_S * REST_S)
        self._last = now
        return max(0.0, -self._credit / REFUSED_PER_S)

    def rests(self, connection: Resting) -> None:
        """A connection rests from now on, until it is woken or its time is over."""
        self._resting[connection] = None

    def ends(self, connection: Resting) -> None:
        """A connection rests no more."""
        self._resting.pop(connection, None)

    def answered(self) -> None:
        """Wake some, for there is a place."""
        for _ in range(min(WOKEN_PER_ANSWER, len(self._resting))):
            self._resting.popitem(last=False)[0].wake()
