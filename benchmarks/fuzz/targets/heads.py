"""What arrives on a connection to the edge: raw bytes, in two pieces, into the protocol that the server uses."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.fuzz.targets import Try
from benchmarks.fuzz.targets.images import seeds as images
from benchmarks.fuzz.targets.nodes import BUNDLE, FoundError, node_for, tracebacks
from edge_node.app import edge_app
from edge_node.server import http_server
from edge_node.settings import EdgeSettings

MAX_BYTES = 8192
_STATUS = re.compile(rb"HTTP/1\.1 ([0-9]{3}) ")
_ROUNDS = 200  # of the event loop, within which any of these requests is answered
_HOST = b"Host: localhost\r\n"


def seeds() -> Iterator[bytes]:
    """Requests as clients and attackers send them; the first byte says where the input is cut in two."""
    photo = next(images())
    yield b"\x10GET /healthz HTTP/1.1\r\n" + _HOST + b"\r\n"
    yield b"\x20HEAD /readyz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    yield (
        b"\x40POST /v1/predict?probabilities=true HTTP/1.1\r\n"
        + _HOST
        + (b"X-Request-ID: a-1\r\nX-Request-Timeout-Ms: 500\r\nContent-Length: %d\r\n\r\n" % len(photo))
        + photo
    )
    yield (
        b"\x30POST /v1/predict HTTP/1.1\r\n"
        + _HOST
        + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    )
    yield (
        b"\x30PUT /v1/policy HTTP/1.1\r\n"
        + _HOST
        + b"Content-Length: 17\r\nExpect: 100-continue\r\n\r\n"
        + (b'{"thetas": [0.5]}')
    )
    yield (
        b"\x18GET /metrics HTTP/1.1\r\n"
        + _HOST
        + b"Authorization: Bearer x\r\nOrigin: http://localhost\r\n\r\n"
        + (b"GET /v1/bundle HTTP/1.1\r\n" + _HOST + b"\r\n")
    )
    yield b"\x18GET / HTTP/1.1\r\n" + _HOST + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


@asynccontextmanager
async def ready() -> AsyncIterator[Try]:
    """A server without a socket: each input is a connection of its own."""
    settings = EdgeSettings(bundle=BUNDLE, port=0)
    with tracebacks() as logged:
        async with node_for(settings) as node:
            server = http_server(edge_app(node, settings), settings)
            config = server.config
            if not config.loaded:
                config.load()

            async def once(data: bytes) -> None:
                cut = (data or b"\0")[0]
                make: Any = config.http_protocol_class
                protocol = make(
                    config=config,
                    server_state=server.server_state,
                    app_state={},
                    _loop=asyncio.get_running_loop(),
                )
                written = await _talk(protocol, [data[1:][:cut], data[1:][cut:]])
                logged.check()
                statuses = {int(each) for each in _STATUS.findall(written)}
                if any(each >= 500 and each != 503 for each in statuses):
                    raise FoundError(f"answered with {sorted(statuses)}")

            yield once


async def _talk(protocol: Any, pieces: list[bytes]) -> bytes:
    transport = _Transport()
    protocol.connection_made(transport)
    for piece in pieces:
        if piece and not transport.closed:
            protocol.data_received(piece)
        await asyncio.sleep(0)
    for _ in range(_ROUNDS):
        if transport.closed or not _busy(protocol):
            break
        await asyncio.sleep(0)
    protocol.connection_lost(None)
    await asyncio.sleep(0)
    return b"".join(transport.written)


def _busy(protocol: Any) -> bool:
    cycle = getattr(protocol, "cycle", None)
    return cycle is not None and not cycle.response_complete


class _Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 80)})
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def is_reading(self) -> bool:
        return True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0
