"""Tells a call on its way to the next tier whether others can be expected to go the same way soon."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_MOMENT_S = 0.002


class Crowd:
    """The calls under way on a node, and those of them that wait for the next tier. For one event loop.

    On a busy node, clients ask again as soon as they are answered. Between two rounds of the event loop nothing but
    what waits may be under way, though more is about to come. So what was under way a moment ago counts, too.
    """

    def __init__(self, hurry: Callable[[], None]) -> None:
        """Nothing is under way; `hurry` is called once those that wait can expect no others."""
        self.under_way = 0
        self._hurry = hurry
        self._asking = 0
        self._most, self._most_at = 0, 0.0  # under way at once, lately, and when
        self._timer: asyncio.TimerHandle | None = None

    def enter(self) -> None:
        """A call begins."""
        self.under_way += 1
        self._is_all_asking()

    def leave(self) -> None:
        """A call is over."""
        self.under_way -= 1
        if self._asking and not self._timer:
            self._look()

    @contextmanager
    def asking(self) -> Iterator[bool]:
        """While a call waits for the next tier; gives whether no other can be expected to join it."""
        self._asking += 1
        try:
            is_last = self._is_all_asking()
            if not is_last and not self._timer:
                self._look_again()
            yield is_last
        finally:
            self._asking -= 1

    def _look(self) -> None:
        self._timer = None
        if not self._asking:
            return
        if self._is_all_asking():
            self._hurry()
        else:
            self._look_again()

    def _look_again(self) -> None:
        # While others are under way there is no need: they look themselves, when they ask or leave.
        if self._asking == self.under_way:
            self._timer = asyncio.get_running_loop().call_later(_MOMENT_S, self._look)

    def _is_all_asking(self) -> bool:
        now = time.perf_counter()
        if self.under_way >= self._most or now > self._most_at + _MOMENT_S:
            self._most, self._most_at = self.under_way, now
        return self._asking >= self._most
