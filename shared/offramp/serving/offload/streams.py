"""Calls of `InferStream`: each carries one request after another, which costs less than a call for each.

Only one request at a time is under way on each, so they need no numbers, and what ends one concerns that request alone.
A request that finds all of them busy begins another one. They are short: gRPC counts a call once it ends, and takes an
address for broken if all calls that end there within half a second have failed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import grpc

from offramp.wire.messages import BYTES_OF_STREAM, BYTES_ON_STREAM

_MOST_BUSY = 8
_MAX_AGE_S = 0.25
# After one that was ended before it carried anything: the upstream has no room for it. Each time twice as long.
_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 120.0
_ENDING_S = 5.0


class StreamEndedError(Exception):
    """The call ended without an answer; the request can be sent again in a call of its own."""


@dataclass(eq=False, slots=True)
class _Stream:
    call: Any
    begun: float
    has_answered: bool = False

    @property
    def is_old(self) -> bool:
        return time.monotonic() >= self.begun + _MAX_AGE_S


class Streams:
    """The streams of one channel. For one event loop."""

    def __init__(self, begin: Callable[[], Any]) -> None:
        """There is none yet; `begin` makes one."""
        self._begin = begin
        self._free: list[_Stream] = []
        self._busy = 0
        self._last_at = -1.0
        self._pause_s = _PAUSE_S
        self._paused_until = 0.0
        self._is_closed = False
        self._sweep: asyncio.TimerHandle | None = None
        self._ending: set[asyncio.Task[None]] = set()

    def takes_next(self) -> bool:
        """Whether to `ask` for the next request: only if requests come so often that a stream carries several."""
        now = time.monotonic()
        is_often, self._last_at = now < self._last_at + _MAX_AGE_S, now
        is_open = not self._is_closed and now >= self._paused_until
        return is_often and is_open and self._busy < _MOST_BUSY

    async def ask(self, message: bytes, sent: list[int]) -> bytes:
        """Send a request and wait for its answer. Whoever is cancelled here ends the call.

        sent: the bytes on the socket are added to it.

        Raises:
            StreamEndedError: there was no answer.
        """
        self._busy += 1
        try:
            stream = self._taken()
            beginning = 0 if stream.has_answered else BYTES_OF_STREAM
            sent.append(len(message) + BYTES_ON_STREAM + beginning)
            try:
                reply = await _exchanged(stream.call, message)
            except BaseException:
                stream.call.cancel()  # gRPC does so itself, but not while it connects
                raise
        except StreamEndedError:
            if not stream.has_answered:
                self._pause()
            raise
        finally:
            self._busy -= 1
        stream.has_answered = True
        self._pause_s = _PAUSE_S
        self._give_back(stream)
        return reply

    def close(self) -> None:
        """End those that carry nothing now at once, the others after their request."""
        self._is_closed = True
        self._end_old()

    async def stop(self) -> None:
        """End those that carry nothing now, and forget them: while a call is known, its channel stays connected."""
        self.close()
        for ending in self._ending:
            ending.cancel()
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _taken(self) -> _Stream:
        # The last one first, so that those which are not needed grow old.
        while self._free:
            stream = self._free.pop()
            if not (stream.is_old or stream.call.done()):
                return stream
            self._end(stream)
        return _Stream(self._begin(), time.monotonic())

    def _give_back(self, stream: _Stream) -> None:
        self._free.append(stream)
        if stream.is_old or self._is_closed:
            self._end_old()
        elif not self._sweep:
            self._sweep = asyncio.get_running_loop().call_later(_MAX_AGE_S, self._end_old)

    def _end_old(self) -> None:
        if self._sweep:
            self._sweep.cancel()
            self._sweep = None
        old = [stream for stream in self._free if stream.is_old or self._is_closed]
        self._free = [stream for stream in self._free if stream not in old]
        for stream in old:
            self._end(stream)
        if self._free:
            self._sweep = asyncio.get_running_loop().call_later(_MAX_AGE_S, self._end_old)

    def _end(self, stream: _Stream) -> None:
        ending = asyncio.create_task(_end(stream.call))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    def _pause(self) -> None:
        self._paused_until = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)


async def _exchanged(call: Any, message: bytes) -> bytes:
    # Whatever ended the call, the request is made again, and the status told then. Here it may be another: while a
    # message is being written, gRPC makes INTERNAL of all.
    try:
        await call.write(message)
        reply = await call.read()
    except (asyncio.InvalidStateError, grpc.aio.AioRpcError) as error:
        raise StreamEndedError from error
    if not isinstance(reply, bytes):  # grpc.aio's mark of the end
        raise StreamEndedError
    return reply


async def _end(call: Any) -> None:
    """End a call in order: one that is cancelled, or that nobody holds, would count as a failure of its address."""
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(_ENDING_S):
                await call.done_writing()
                await call.code()
    finally:
        call.cancel()
