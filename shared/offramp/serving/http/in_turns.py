"""Reads those who send much in turns, so that they do not keep the event loop from those who send little.

The event loop reads up to 256 kB of each connection in every round. Two hundred uploads make a round so long that a
small request, which takes a few rounds, waits for half a second.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from offramp.serving.http.limits import READ_IN_A_ROUND


class ReadingTurns:
    """The connections whose turn has yet to come, in order."""

    def __init__(self) -> None:
        self._waiting: deque[InTurns] = deque()
        self._is_going_round = False

    def wait(self, transport: InTurns, loop: asyncio.AbstractEventLoop) -> None:
        """Leave a connection unread until its turn comes."""
        transport.hold()
        self._waiting.append(transport)
        if not self._is_going_round:
            self._is_going_round = True
            loop.call_soon(self._go_round, loop)

    def _go_round(self, loop: asyncio.AbstractEventLoop) -> None:
        for _ in range(min(READ_IN_A_ROUND, len(self._waiting))):
            self._waiting.popleft().let_go()
        self._is_going_round = bool(self._waiting)
        if self._is_going_round:
            loop.call_soon(self._go_round, loop)


class InTurns:
    """A transport that is read when its protocol takes data and its turn has come."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.write = transport.write
        self._transport = transport
        self._is_wanted = True
        self._is_held = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def pause_reading(self) -> None:
        """The protocol takes no more data."""
        if self._is_wanted and not self._is_held:
            self._transport.pause_reading()
        self._is_wanted = False

    def resume_reading(self) -> None:
        """The protocol takes data again."""
        if not self._is_wanted and not self._is_held:
            self._transport.resume_reading()
        self._is_wanted = True

    def hold(self) -> None:
        """Wait for a turn."""
        if self._is_wanted and not self._is_held:
            self._transport.pause_reading()
        self._is_held = True

    def let_go(self) -> None:
        """The turn has come."""
        if self._is_wanted and self._is_held:
            self._transport.resume_reading()
        self._is_held = False
