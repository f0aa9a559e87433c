"""What strangers do to an edge. Each function goes on until its process is killed; each connection has another source.

A stranger's addresses are 127.0.0.66 to 69, so that a node can tell it from the normal clients at 127.0.0.1.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Protocol

from tests.chaos import files

_AGAIN_S = 2.0  # until a connection that the node ended is opened again
_SOURCES = itertools.cycle(f"127.0.0.{number}" for number in (66, 67, 68, 69))


class Counting(Protocol):
    """What counts the things sent."""

    def one(self, more: int = 1) -> None:
        """So much more was sent."""


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to HOST:PORT from one of a stranger's addresses."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), local_addr=(next(_SOURCES), 0))
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def head(length: int, kind: str = "image/jpeg", *more: str) -> bytes:
    """The head of a request with a photo."""
    lines = ["POST /v1/predict HTTP/1.1", "Host: localhost", f"Content-Type: {kind}", *more]
    return "\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode()


async def _hold(
    address: str, count: Counting, pieces: Iterable[bytes], pause_s: float, again_s: float = _AGAIN_S
) -> None:
    """Connect, send pieces with pauses between them, and wait; whenever the node hangs up, begin again."""
    while True:
        with suppress(OSError):
            async with connected(address) as (reader, writer):
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    count.one()
                    await asyncio.sleep(pause_s)
                while await reader.read(65_536):
                    pass
        await asyncio.sleep(again_s)


async def announce(address: str, count: Counting, connections: int, sent: int) -> None:
    """Announce up to 10 MB on each connection, and send `sent` bytes of it.

    The lengths differ, so that together they fill whatever room a node has.
    """
    lengths = [max(10_000_000 // 10**number, sent + 1) for number in range(5)]
    await asyncio.gather(
        *(_hold(address, count, [head(lengths[n % 5]), b"x" * sent], 0) for n in range(connections))
    )


async def half_heads(address: str, count: Counting, connections: int) -> None:
    """Send half a head on each connection."""
    half = [b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nX-A: "]
    await asyncio.gather(*(_hold(address, count, half, 0) for _ in range(connections)))


async def dripping_heads(address: str, count: Counting, connections: int) -> None:
    """Send a head of a byte a second on each connection."""
    drops = [b"GET /healthz HTTP/1.1\r\n", *[b"x"] * 1000]
    await asyncio.gather(*(_hold(address, count, drops, 1) for _ in range(connections)))


async def idle(address: str, count: Counting, connections: int, again_s: float = _AGAIN_S) -> None:
    """Hold connections without a request; open one again `again_s` seconds after the node ended it."""
    await asyncio.gather(*(_hold(address, count, [b""], 0, again_s) for _ in range(connections)))


async def reconnecting(address: str, count: Counting, connections: int) -> None:
    """The same, but be back in half a second: thousands of connections a second, for a node that refuses them."""
    await idle(address, count, connections, 0.5)


async def endless_head(address: str, count: Counting, megabytes: int) -> None:
    """Send a head of so many megabytes, over and over, on two connections."""
    line = b"X-Long: " + b"a" * 65_000 + b"\r\n"
    pieces = [b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n", *[line * 16] * megabytes]
    await asyncio.gather(*(_hold(address, count, pieces, 0) for _ in range(2)))


async def many_headers(address: str, count: Counting) -> None:
    """Send a million headers, over and over."""
    pieces = [b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n", *[b"a:b\r\n" * 10_000] * 100, b"\r\n"]
    await _hold(address, count, pieces, 0)


async def post(
    address: str, count: Counting, make: Callable[[], bytes], kind: str, at_once: int, every_s: float
) -> None:
    """Post a file over and over: `at_once` at the same time, a new one every `every_s` seconds."""
    body = make()
    turns = asyncio.Semaphore(at_once)
    asking = set()
    while True:
        await turns.acquire()
        task = asyncio.create_task(_post(address, body, kind, count))
        asking.add(task)
        task.add_done_callback(asking.discard)
        task.add_done_callback(lambda _: turns.release())
        await asyncio.sleep(every_s)


async def _post(address: str, body: bytes, kind: str, count: Counting) -> None:
    with suppress(OSError):
        async with connected(address) as (reader, writer):
            writer.write(head(len(body), kind, "Connection: close") + body)
            count.one()
            await writer.drain()
            while await reader.read(65_536):
                pass


async def abort(address: str, count: Counting, every_s: float) -> None:
    """Send a photo and leave before the answer, over and over."""
    photo = files.photos()[0]
    while True:
        with suppress(OSError):
            async with connected(address) as (_, writer):
                writer.write(head(len(photo)) + photo)
                count.one()
                await writer.drain()
        await asyncio.sleep(every_s)
