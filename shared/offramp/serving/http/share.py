"""Shares out what all clients of a front door use together: memory, places, connections."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from offramp.serving.http.limits import SHARE


class FairShare:
    """An amount of which any client may use what is free, but never so much that none is left for the others.

    A client may hold up to `SHARE` times what stays free: three quarters if it is alone, three sevenths if there are
    two, and so on. So there is always some left for one that comes later, and nobody has to be asked to give any back.
    """

    def __init__(self, total: int, *, least: int = 1) -> None:
        """Share `total`; a client may hold up to `least` of it as long as so much is free."""
        self.total = total
        self.used = 0
        self._least = least
        self._held: dict[str, int] = {}

    def take(self, client: str, amount: int) -> bool:
        """Take more of it, if the client may."""
        if not self.has_room(client, amount):
            return False
        self.used += amount
        self._held[client] = self._held.get(client, 0) + amount
        return True

    def has_room(self, client: str, amount: int = 1) -> bool:
        """Whether a client may take so much more."""
        left = self.total - self.used - amount
        wanted = self._held.get(client, 0) + amount
        return left >= 0 and (wanted <= SHARE * left or wanted <= self._least)

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
