"""Shares out what all clients of a front door use together: memory, places, connections."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from offramp.serving.http.limits import SHARE


class FairShare:
    """An amount of which any client may use what is free, but never so much that none is left for the others.

    A client may hold up to `SHARE` times what stays free: three quarters if it is alone, three sevenths if there are
    two, and so on. So there is always some left for one that comes later, and nobody has to be asked to give any back.
    """

    def __init__(self, total: int, *, least: int = 1, alone_s: float = math.inf) -> None:
        """Share `total`.

        Args:
            total: of it.
            least: a client may hold so much if half as much stays free, or nobody else holds any.
            alone_s: if nobody else has asked for so long, a client may hold all; for what is soon given back.
        """
        self.total = total
        self.used = 0
        self._least = least
        self._alone_s = alone_s
        self._held: dict[str, int] = {}
        self._last = ""  # who asked last
        self._turned = -math.inf  # when somebody else did before

    def take(self, client: str, amount: int) -> bool:
        """Take more of it, if the client may."""
        if not self.has_room(client, amount):
            return False
        self.used += amount
        self._held[client] = self._held.get(client, 0) + amount
        return True

    def has_room(self, client: str, amount: int = 1) -> bool:
        """Whether a client may take so much more."""
        now = monotonic()
        if client != self._last:
            self._last, self._turned = client, now if self._last else -math.inf
        left = self.total - self.used - amount
        wanted = self._held.get(client, 0) + amount
        if left < 0:
            return False
        if wanted <= SHARE * left or now - self._turned > self._alone_s:
            return True
        return wanted <= self._least and (left >= self._least // 2 or left + wanted == self.total)

    @property
    def is_full(self) -> bool:
        """Whether nothing is left for anybody."""
        return self.used >= self.total

    def held(self, client: str) -> int:
        """How much a client holds."""
        return self._held.get(client, 0)

    @contextmanager
    def taken(self, client: str, amount: int = 1) -> Iterator[bool]:
        """Take more of it for a while, if the client may; yields whether it does."""
        took = self.take(client, amount)
        try:
            yield took
        finally:
            if took:
                self.give(client, amount)

    def give(self, client: str, amount: int) -> None:
        """Give back what was taken."""
        self.used -= amount
        left = self._held[client] - amount
        if left:
            self._held[client] = left
        else:
            del self._held[client]
