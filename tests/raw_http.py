"""HTTP by hand, for what a well-behaved client would not send."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def request(body: bytes = b"", *headers: str, path: str = "/v1/predict", method: str = "POST") -> bytes:
    """A request with a body of known length, and with a Host header unless one is given."""
    lines = [f"{method} {path} HTTP/1.1", f"content-length: {len(body)}", *headers]
    if not any(each.lower().startswith("host:") for each in headers):
        lines.append("host: localhost")
    return "\r\n".join([*lines, "", ""]).encode() + body


@asynccontextmanager
async def connected(client: httpx.AsyncClient) -> AsyncIterator[Stream]:
    """A connection of one's own to the node that a client talks to."""
    stream = await asyncio.open_connection(client.base_url.host, client.base_url.port)
    try:
        yield stream
    finally:
        stream[1].close()


async def answered(reader: asyncio.StreamReader) -> tuple[int, bytes, bytes]:
    """Status, head and body of the next answer.

    Raises:
        IncompleteReadError: the connection was closed before it came.
    """
    async with asyncio.timeout(10):
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if head.startswith(b"http/1.1 100"):
            return await answered(reader)
        length = int(head.partition(b"content-length: ")[2].split(b"\r\n")[0])
        return int(head[9:12]), head, await reader.readexactly(length)


async def exchange(client: httpx.AsyncClient, data: bytes) -> tuple[int, bytes, bytes]:
    """What a node answers to these bytes on a connection of their own."""
    async with connected(client) as (reader, writer):
        writer.write(data)
        return await answered(reader)
