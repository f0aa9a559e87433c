"""A TCP proxy that can hold everything for a while, and closes nothing.

Unlike a link that drops packets (`packets.py`), it confirms what it takes, so only those who talk through it notice.
A connection stays silent for as long again as it was held up, as one does after lost packets. New ones work at once.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Self

_CHUNK = 65_536


class BlackHole:
    """A proxy to one address, on the event loop that runs."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._lost_since: float | None = None
        self._silent_until: dict[int, float] = {}
        self._open: dict[int, float] = {}  # since when, by number
        self._tasks: set[asyncio.Task[None]] = set()
        self._number = 0
        self.address = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in [*self._tasks]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def lose(self) -> None:
        """From now on nothing gets through."""
        self._lost_since = time.monotonic()

    def heal(self) -> None:
        """New connections get through again; old ones after as long as they were held up."""
        assert self._lost_since is not None
        now = time.monotonic()
        begun = self._lost_since
        self._silent_until |= {each: now + (now - max(begun, since)) for each, since in self._open.items()}
        self._lost_since = None

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._number += 1
        number = self._number
        self._open[number] = time.monotonic()
        try:
            with suppress(OSError, asyncio.CancelledError):
                await self._carry(number, reader, writer)
        finally:
            del self._open[number]
            self._tasks.discard(task)
            writer.close()

    async def _carry(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._pass(number)
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        try:
            both = [
                asyncio.create_task(self._one_way(number, reader, far_writer)),
                asyncio.create_task(self._one_way(number, far_reader, writer)),
            ]
            self._tasks.update(both)
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for task in both:
                task.cancel()
                self._tasks.discard(task)
        finally:
            far_writer.close()

    async def _one_way(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(_CHUNK):
                await self._pass(number)
                writer.write(data)
                await writer.drain()
            await self._pass(number)  # the end of a connection is lost as well

    async def _pass(self, number: int) -> None:
        while self._lost_since is not None or time.monotonic() < self._silent_until.get(number, 0.0):
            await asyncio.sleep(0.02)
