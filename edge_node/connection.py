"""uvicorn's HTTP/1.1, but each answer takes one system call instead of one for the head and one for the body.

Each call wakes the reader at the other end, and costs about as much as a small block. uvicorn writes the head as soon
as it has it. Here the head waits for the body, at most until the event loop's next round.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class OneWriteProtocol(HttpToolsProtocol):
    """uvicorn's own protocol, on a transport that writes a head together with its body."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        """Begin a connection."""
        super().connection_made(_OneWrite(transport, self.loop))  # type: ignore[arg-type] # it passes everything on


class _OneWrite:
    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._head and data.startswith(b"HTTP/1.1 "):
            self._head = data
            self._loop.call_soon(self._flush)
            return
        head, self._head = self._head, b""
        self._transport.write(head + data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._head:
            self.write(b"")
