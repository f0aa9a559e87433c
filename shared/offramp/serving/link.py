"""A simulated slow line: a TCP proxy that adds delay, jitter and a rate limit, and counts the bytes that pass.

For demonstrations, tests and benchmarks on one machine. Bytes are held back, never changed or dropped, because above
TCP a lossy line only looks slow. To lose the connection, close the link.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Self

from pydantic import Field

from offramp.record import Record
from offramp.serving.listening import listening_socket

_CHUNK = 16 * 1024
_IN_FLIGHT = 64  # chunks in flight in one direction; beyond that the sender has to wait


class LinkSettings(Record):
    """How slow the line is, in each direction."""

    delay_ms: float = Field(default=0.0, ge=0, le=60_000)
    jitter_ms: float = Field(
        default=0.0, ge=0, le=60_000, description="random extra delay, uniform from 0 to this"
    )
    rate_mbit: float | None = Field(default=None, gt=0, description="megabits per second")


@dataclass
class Link:
    """A proxy from a port of this machine to `target` (HOST:PORT). Used as an async context manager."""

    target: str
    settings: LinkSettings = field(default_factory=LinkSettings)
    host: str = "127.0.0.1"
    port: int = 0
    up_bytes: int = 0
    down_bytes: int = 0

    async def __aenter__(self) -> Self:
        """Listen; port 0 is replaced by a free one.

        Raises:
            ConfigError: the port is taken, or the address is not one of this machine.
        """
        self._open: set[asyncio.StreamWriter] = set()
        listening = listening_socket(self.host, self.port)
        self._server = await asyncio.start_server(self._serve, sock=listening)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Cut every connection and stop listening."""
        self._server.close()
        for writer in list(self._open):
            writer.transport.abort()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self.target.rpartition(":")
        try:
            beyond_reader, beyond_writer = await asyncio.open_connection(host.strip("[]"), int(port))
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, beyond_writer}
        self._open |= ends
        try:
            await asyncio.gather(
                self._carry(reader, beyond_writer, up=True), self._carry(beyond_reader, writer, up=False)
            )
        except OSError:
            pass
        finally:
            self._open -= ends
            for end in ends:
                end.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_IN_FLIGHT)
        arriving = asyncio.create_task(self._arrive(under_way, writer))
        loop = asyncio.get_running_loop()
        free_at = last_due = 0.0
        try:
            while data := await reader.read(_CHUNK):
                if up:
                    self.up_bytes += len(data)
                else:
                    self.down_bytes += len(data)
                free_at = max(free_at, loop.time()) + self._seconds_of(len(data))
                late = (self.settings.delay_ms + random.uniform(0, self.settings.jitter_ms)) / 1000
                last_due = max(last_due, free_at + late)  # TCP keeps the order, whatever the jitter
                await under_way.put((last_due, data))
            await under_way.put((last_due, b""))
            await arriving
        finally:
            arriving.cancel()
            with suppress(asyncio.CancelledError, OSError):
                await arriving

    async def _arrive(
        self, under_way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, data = await under_way.get()
            await asyncio.sleep(due - loop.time())
            if not data:
                if writer.can_write_eof():
                    writer.write_eof()
                return
            writer.write(data)
            await writer.drain()

    def _seconds_of(self, count: int) -> float:
        return 0.0 if self.settings.rate_mbit is None else count * 8 / (self.settings.rate_mbit * 1e6)


@contextmanager
def link_in_background(target: str, settings: LinkSettings | None = None) -> Iterator[Link]:
    """A link with an event loop of its own, for callers that have none."""
    link = Link(target, settings or LinkSettings())
    ready = Event()
    with closing(asyncio.new_event_loop()) as loop:
        ends = asyncio.Event()

        async def run() -> None:
            async with link:
                ready.set()
                await ends.wait()

        thread = Thread(target=loop.run_until_complete, args=(run(),), daemon=True)
        thread.start()
        ready.wait()
        try:
            yield link
        finally:
            loop.call_soon_threadsafe(ends.set)
            thread.join()
