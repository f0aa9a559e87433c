"""Calls that stay open: each carries one request after another, at about half of what a call for each costs both sides.

Only one request at a time is under way on each, so they need no numbers, and what ends one concerns that request alone.
A request that finds all of them busy begins another one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc

_MOST_BUSY = 16
# Then the next one may come to another replica, or let another caller have its place.
_MAX_AGE_S = 10.0
# After the upstream ended one instead of answering: it may have no room for them.
_PAUSE_S = 5.0
_ENDED = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNIMPLEMENTED}


class StreamEndedError(Exception):
    """The upstream ended the call instead of answering; the request can be sent again in a call of its own."""


@dataclass(frozen=True, eq=False, slots=True)
class _Stream:
    call: Any
    begun: float

    @property
    def is_old(self) -> bool:
        return time.monotonic() > self.begun + _MAX_AGE_S


class Streams:
    """The open calls of one channel. For one event loop."""

    def __init__(self, begin: Callable[[], Any]) -> None:
        """None is open yet; `begin` makes one."""
        self._begin = begin
        self._free: list[_Stream] = []
        self._busy = 0
        self._paused_until = 0.0
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def is_ready(self) -> bool:
        """Whether a request can be sent now."""
        return self._busy < _MOST_BUSY and time.monotonic() >= self._paused_until

    async def ask(self, message: bytes) -> bytes:
        """Send a request and wait for its answer; only if `is_ready`. Whoever is cancelled here ends the call.

        Raises:
            StreamEndedError: there was no answer, for no fault of the request.
            grpc.aio.AioRpcError: the upstream refuses the request.
        """
        self._busy += 1
        try:
            stream = self._taken()
            reply = await _exchanged(stream.call, message)
        except StreamEndedError:
            self._paused_until = time.monotonic() + _PAUSE_S
            raise
        finally:
            self._busy -= 1
        self._give_back(stream)
        return reply

    def close(self) -> None:
        """End those that carry nothing now; the others end with their request."""
        free, self._free = self._free, []
        for stream in free:
            self._end(stream)
        self._paused_until = float("inf")

    def _taken(self) -> _Stream:
        # The last one first, so that those which are not needed grow old.
        while self._free:
            stream = self._free.pop()
            if not stream.call.done():  # the upstream ends those that carry nothing for long
                return stream
        return _Stream(self._begin(), time.monotonic())

    def _give_back(self, stream: _Stream) -> None:
        if not stream.is_old:
            self._free.append(stream)
            return
        for old in [stream, *(each for each in self._free if each.is_old)]:
            self._end(old)
        self._free = [each for each in self._free if not each.is_old]

    def _end(self, stream: _Stream) -> None:
        ending = asyncio.create_task(_end(stream.call))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)


async def _exchanged(call: Any, message: bytes) -> bytes:
    try:
        await call.write(message)
        reply = await call.read()
    except asyncio.InvalidStateError as error:  # it has ended
        raise StreamEndedError from error
    except grpc.aio.AioRpcError as error:
        if error.code() in _ENDED:
            raise StreamEndedError from error
        raise
    if not isinstance(reply, bytes):  # grpc.aio's mark of the end
        raise StreamEndedError
    return reply


async def _end(call: Any) -> None:
    await call.done_writing()
    await call.code()  # a call that nobody holds is cancelled, and would count as a failure of its replica
