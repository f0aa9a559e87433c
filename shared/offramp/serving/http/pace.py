"""Keeps refusals from taking the time of answers."""

from __future__ import annotations

from time import monotonic

from offramp.serving.http.limits import REFUSED_PER_ANSWER, REFUSED_PER_S, REST_S

_WINDOW_S = 0.5


class RefusalPace:
    """How long a connection that was refused has to wait before it is read again: usually not at all.

    Clients that do not wait as Retry-After says ask as fast as they are refused. Then parsing and refusing them takes
    the time that the answers need. So refusals have a rate, ten for each answer; connections beyond it are left unread
    for a moment, in which TCP holds their clients back.
    """

    def __init__(self) -> None:
        self._rate = float(REFUSED_PER_S[1])
        self._credit = float(REFUSED_PER_S[0])
        self._answers = 0
        self._since = self._last = monotonic()

    def answered(self) -> None:
        """Count an answer."""
        self._answers += 1

    def refused(self) -> float:
        """Count a refusal; returns the seconds for which its connection is to be left unread."""
        now = monotonic()
        if (passed := now - self._since) >= _WINDOW_S:
            low, high = REFUSED_PER_S
            self._rate = min(high, max(low, REFUSED_PER_ANSWER * self._answers / passed))
            self._answers, self._since = 0, now
        refilled = self._credit + (now - self._last) * self._rate
        self._credit = max(min(refilled, REFUSED_PER_S[0]) - 1, -self._rate * REST_S)
        self._last = now
        return max(0.0, -self._credit / self._rate)
