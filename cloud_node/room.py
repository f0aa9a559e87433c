"""How much callers may make a node hold: places for calls, and room for the bytes of their messages."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

from offramp.errors import OverloadError, RequestError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What callers may hold at the same time.

    message_bytes: one message. buffered_bytes: all messages together. arriving: calls whose message is on its way.
    streams: calls that stay open, such as health watches. arrival_s: how long a message may take to arrive.
    """

    message_bytes: int
    buffered_bytes: int
    arriving: int
    streams: int
    arrival_s: float


class Places:
    """So many calls at a time, and at most half of them of one host."""

    def __init__(self, most: int, what: str) -> None:
        """All are free; `what` the calls are, for errors."""
        self._most = most
        self._what = what
        self._taken: Counter[str] = Counter()

    @contextmanager
    def taken(self, host: str) -> Iterator[None]:
        """Hold a place.

        Raises:
            OverloadError: all are taken, or half of them by this host.
        """
        if self._taken.total() >= self._most or self._taken[host] >= self._most // 2:
            raise OverloadError(
                f"{self._taken.total()} {self._what}, {self._taken[host]} of them from {host}; this node takes "
                f"{self._most}, half of them from one host"
            )
        self._taken[host] += 1
        try:
            yield
        finally:
            _less(self._taken, host, 1)


class Room:
    """The memory for messages. One that is arriving counts as the largest allowed, one that has arrived as it is.

    A call that sends one message after another counts as one that is arriving while it waits for the next. Such calls
    take half of the room at most, and a quarter for one host. For each message that finds no room, one of them is
    ended: the one that has been silent for longest.
    """

    def __init__(self, limits: Limits) -> None:
        """All of it is free."""
        self._limits = limits
        self._places = Places(limits.arriving, "messages on their way")
        self._held = 0
        self._arriving: Counter[str] = Counter()  # bytes, by host
        self._waiting: dict[asyncio.Future[None], str] = {}  # host of each, in order
        # Calls between two messages: until when each may be silent, the longest silent first; and how many, by host.
        self._silent: dict[asyncio.Timeout, None] = {}
        self._silent_of: Counter[str] = Counter()
        self._is_closed = False

    @property
    def held_bytes(self) -> int:
        """Bytes that are counted now."""
        return self._held

    @property
    def waiting(self) -> int:
        """Calls that wait for room."""
        return len(self._waiting)

    def message(self, context: Any, *, has_place: bool = False) -> _Message:
        """Read a call's message in an `async with`; it is counted until the block ends.

        Args:
            context: gRPC's, of the call.
            has_place: the call holds a place elsewhere, so it needs none among those that arrive, and may wait for
                room as long as its caller does.

        Raises:
            OverloadError: there was no room for it in time.
            RequestError: it did not arrive in time, or not at all.
        """
        return _Message(self, context, has_place)

    def messages(self, context: Any, parse: Callable[[bytes], Any]) -> MessageStream:
        """The messages of a call that sends one after another."""
        return MessageStream(self, context, parse)

    def close(self) -> None:
        """End the calls that send one message after another: at once those between two, the others after this one."""
        self._is_closed = True
        while self._silent:
            self._end_longest_silent()

    async def following(self, context: Any) -> bytes | None:
        """Wait for the next message of a call that sends one after another; it is counted until it is `left`.

        Returns:
            None if there is none: the caller has ended the call, or is silent for longer than a message may take, or
            there is no room to wait for it, or no longer, or the room is closed.
        """
        host = host_of(context.peer())
        if self._is_closed or not self._fits_silent(host):
            return None
        patience = asyncio.timeout(self._limits.arrival_s)
        self._held += self._limits.message_bytes
        self._silent_of[host] += 1
        data = None
        try:
            async with patience:
                self._silent[patience] = None
                found = await context.read()
            if isinstance(found, bytes):  # until grpc.aio's mark of the end
                data = found
        except TimeoutError:
            pass
        finally:
            self._silent.pop(patience, None)
            _less(self._silent_of, host, 1)
            self._held -= self._limits.message_bytes - len(data or b"")
            if self._waiting:
                self._wake()
        return data

    def _end_longest_silent(self) -> None:
        while self._silent:
            patience = next(iter(self._silent))
            del self._silent[patience]
            if not patience.expired():
                patience.reschedule(asyncio.get_running_loop().time())
                return

    async def arrived(self, context: Any, *, has_place: bool) -> bytes:
        """Wait for a message, which is counted until it is `left`; see `message`."""
        host = host_of(context.peer())
        if has_place:
            return await self._arrived(context, host, is_patient=True)
        with self._places.taken(host):
            return await self._arrived(context, host, is_patient=False)

    def left(self, data: bytes) -> None:
        """A message that had arrived is no longer needed."""
        self._held -= len(data)
        if self._waiting:
            self._wake()

    async def _arrived(self, context: Any, host: str, *, is_patient: bool) -> bytes:
        arrival_s, loop = self._limits.arrival_s, asyncio.get_running_loop()
        deadline = loop.time() + arrival_s
        # Nobody who waits would fit now: all are counted alike, and those that fit again are let in at once.
        if self._fits(host):
            self._book(host)
        else:
            await self._turn(host, None if is_patient else deadline)
        if is_patient:
            deadline = loop.time() + arrival_s
        data = b""
        try:
            async with asyncio.timeout_at(deadline):
                found = await context.read()
            if not isinstance(found, bytes):  # grpc.aio's mark of the end
                raise RequestError("the call ended without a message; send one")
            data = found
        except TimeoutError:
            raise RequestError(f"the message did not arrive within {arrival_s:g} s; send it faster") from None
        finally:
            self._unbook(host, len(data))
        return data

    async def _turn(self, host: str, deadline: float | None) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[turn] = host
        if not self._has_room():  # and not merely its host's share of it
            self._end_longest_silent()
        try:
            async with asyncio.timeout_at(deadline):
                await turn
        except BaseException as error:
            if self._waiting.pop(turn, None) is None:  # it was let in at the same moment
                self._unbook(host, 0)
            if isinstance(error, TimeoutError):
                raise OverloadError(
                    f"no room for another message within {self._limits.arrival_s:g} s; send fewer at a time"
                ) from None
            raise

    def _fits(self, host: str) -> bool:
        most, largest = self._limits.buffered_bytes, self._limits.message_bytes
        # A host that sends slowly leaves half of the room to the others.
        return self._has_room() and self._arriving[host] + largest <= max(most // 2, largest)

    def _fits_silent(self, host: str) -> bool:
        most, largest = self._limits.buffered_bytes, self._limits.message_bytes
        of_all, of_host = self._silent_of.total() + 1, self._silent_of[host] + 1
        return self._has_room() and of_all * largest <= most // 2 and of_host * largest <= most // 4

    def _has_room(self) -> bool:
        return self._held + self._limits.message_bytes <= self._limits.buffered_bytes

    def _book(self, host: str) -> None:
        self._held += self._limits.message_bytes
        self._arriving[host] += self._limits.message_bytes

    def _unbook(self, host: str, arrived_bytes: int) -> None:
        self._held -= self._limits.message_bytes - arrived_bytes
        _less(self._arriving, host, self._limits.message_bytes)
        if self._waiting:
            self._wake()

    def _wake(self) -> None:
        """Let in those that fit now, in order."""
        for turn, host in list(self._waiting.items()):
            if not turn.done() and self._fits(host):
                del self._waiting[turn]
                self._book(host)
                turn.set_result(None)


class _Message:
    """Holds a message of one call. A generator would cost the call more than what it does here."""

    __slots__ = ("_context", "_data", "_has_place", "_room")

    def __init__(self, room: Room, context: Any, has_place: bool) -> None:
        self._room, self._context, self._has_place = room, context, has_place

    async def __aenter__(self) -> bytes:
        self._data = await self._room.arrived(self._context, has_place=self._has_place)
        return self._data

    async def __aexit__(self, *_: object) -> None:
        self._room.left(self._data)


class MessageStream:
    """The messages of one call, parsed; each is counted until `close`, or until the next one is asked for."""

    __slots__ = ("_context", "_data", "_parse", "_room")

    def __init__(self, room: Room, context: Any, parse: Callable[[bytes], Any]) -> None:
        self._room, self._context, self._parse = room, context, parse
        self._data = b""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        self.close()
        data = await self._room.following(self._context)
        if data is None:
            raise StopAsyncIteration
        self._data = data
        return self._parse(data)

    def close(self) -> None:
        """The last message is no longer needed."""
        self._room.left(self._data)
        self._data = b""


def _less(counter: Counter[str], host: str, by: int) -> None:
    counter[host] -= by
    if not counter[host]:
        del counter[host]


def host_of(peer: str) -> str:
    """The host of a gRPC peer, such as ipv4:10.0.0.1:4711."""
    return peer.rpartition(":")[0] or peer
