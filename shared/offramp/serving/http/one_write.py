"""Answers take one system call instead of one for the head and one for the body.

Each call wakes the reader at the other end, and costs about as much as a small block. uvicorn writes the head as soon
as it has it. Here the head waits for the body, at most until the event loop's next round.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable
from typing import Any

from offramp.serving.http.in_turns import InTurns

_TCP_CLOSE = 7  # from <netinet/tcp.h>


class OneWrite:
    """A transport that writes a head together with its body."""

    def __init__(
        self,
        transport: asyncio.Transport | InTurns,
        loop: asyncio.AbstractEventLoop,
        lingers: Callable[[], bool] = lambda: False,
    ) -> None:
        """Write to `transport`; `lingers`: asked before it is closed, whether the client has to be heard out first."""
        self._transport = transport
        self._loop = loop
        self._lingers = lingers
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write, or keep a head until its body comes."""
        if not self._head and data.startswith(b"HTTP/1.1 "):
            self._head = data
            self._loop.call_soon(self._flush)
            return
        head, self._head = self._head, b""
        self._transport.write(head + data)

    def close(self) -> None:
        """Write what was kept and close; if the client still sends, only this half, so that it sees its answer."""
        self._flush()
        if self._transport.is_closing():
            return
        if self._lingers():
            self._transport.write_eof()
        else:
            self._transport.close()

    def _flush(self) -> None:
        if self._head:
            self.write(b"")


def is_reset(transport: asyncio.Transport) -> bool:
    """Whether the other side has reset a connection; the event loop sees it only when it reads or writes."""
    if sys.platform != "linux":
        return False
    info = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    return bool(info[0] == _TCP_CLOSE)
