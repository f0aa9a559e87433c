"""Who is under way on a node, and so may soon go on to the next tier."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_MOMENT_S = 0.002
_ROUNDING_S = 0.0005  # uvloop's timers are of whole milliseconds, and may ring half of one too early


class Crowd:
    """The calls under way on a node, and those of them that ask the next tier. For one event loop.

    On a busy node, clients ask again as soon as they are answered. Between two rounds of the event loop nothing but
    what asks the next tier may be under way, though more is about to come. So what was under way a moment ago counts,
    too: as many calls as there were at once. A lone client, however fast it asks, is never more than one.
    """

    def __init__(self) -> None:
        """Nothing is under way."""
        self.under_way = 0
        self._asking = 0
        self._most, self._seen_at = 0, 0.0  # under way at once, and when that was last so
        self._tell: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def enter(self) -> None:
        """A call begins."""
        self.under_way += 1
        self._see()

    def leave(self) -> None:
        """A call is over."""
        self._see()
        self.under_way -= 1
        self._look()

    @contextmanager
    def asking(self) -> Iterator[None]:
        """While a call that is under way asks the next tier."""
        self._asking += 1
        try:
            yield
        finally:
            self._asking -= 1

    @property
    def is_all_asking(self) -> bool:
        """Whether all who are under way, or were a moment ago, ask the next tier: no other can be expected to."""
        return self._asking >= self._most_lately()

    def tell(self, all_asking: Callable[[], None]) -> None:
        """Call this, once, as soon as all are asking."""
        self._tell = all_asking
        self._look()

    def _look(self) -> None:
        # While others are under way there is no need: one of them leaves, or asks and looks itself.
        if self._tell is None or self._timer or self._asking < self.under_way:
            return
        if self.is_all_asking:
            tell, self._tell = self._tell, None
            tell()
        else:
            left_s = self._seen_at + _MOMENT_S - time.perf_counter()
            self._timer = asyncio.get_running_loop().call_later(left_s + _ROUNDING_S, self._look_again)

    def _look_again(self) -> None:
        self._timer = None
        self._look()

    def _see(self) -> None:
        if self.under_way >= self._most_lately():
            self._most, self._seen_at = self.under_way, time.perf_counter()

    def _most_lately(self) -> int:
        return self._most if time.perf_counter() <= self._seen_at + _MOMENT_S else self.under_way
