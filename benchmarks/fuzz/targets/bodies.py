"""Bodies of `POST /v1/predict` and `PUT /v1/policy`: JSON, multipart and raw, through the edge's whole application."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

from starlette.types import Message

from benchmarks.fuzz.targets import Try
from benchmarks.fuzz.targets.images import seeds as images
from benchmarks.fuzz.targets.nodes import BUNDLE, FoundError, node_for, tracebacks
from edge_node.app import edge_app
from edge_node.settings import EdgeSettings

MAX_BYTES = 8192
# The first byte of an input chooses one.
_KINDS = (
    ("POST", "/v1/predict", b"application/json"),
    ("POST", "/v1/predict", b"multipart/form-data; boundary=x"),
    ("POST", "/v1/predict", b'multipart/form-data; boundary="a b"; charset=utf-8'),
    ("POST", "/v1/predict", b"image/jpeg"),
    ("PUT", "/v1/policy", b"application/json"),
)
_TYPED = {200, 400, 405, 408, 411, 413, 415, 422, 431}


def seeds() -> Iterator[bytes]:
    """Bodies as clients send them."""
    photo = next(images())
    text = base64.b64encode(photo)
    yield b'\0{"image": "%b"}' % text
    yield b'\0\xef\xbb\xbf{"images": ["%b", "data:image/jpeg;base64,%b"]}' % (text, text)
    part = (
        b'Content-Disposition: form-data; name="images"; filename="p.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    )
    yield b"\1--x\r\n" + part + photo + b"\r\n--x\r\n" + part + photo + b"\r\n--x--\r\nepilogue"
    yield b"\2--a b\r\n" + part + photo + b"\r\n--a b--"
    yield b"\3" + photo
    yield b'\4{"thetas": [0.5]}'
    yield b'\4{"operating_point": "full"}'


@asynccontextmanager
async def ready() -> AsyncIterator[Try]:
    """An edge without an upstream; each body comes in two pieces."""
    settings = EdgeSettings(bundle=BUNDLE, port=0)
    with tracebacks() as logged:
        async with node_for(settings) as node:
            app = edge_app(node, settings)

            async def once(data: bytes) -> None:
                method, path, kind = _KINDS[(data or b"\0")[0] % len(_KINDS)]
                exchange = _Exchange(data[1:])
                await app(_scope(method, path, kind, len(data) - 1), exchange.receive, exchange.send)
                logged.check()
                if exchange.status not in _TYPED:
                    raise FoundError(f"{method} {path} of {kind!r} was answered with {exchange.status}")

            yield once


def _scope(method: str, path: str, kind: bytes, length: int) -> dict[str, object]:
    headers = [(b"host", b"localhost"), (b"content-type", kind), (b"content-length", b"%d" % max(0, length))]
    return {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "headers": headers,
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "state": {},
    }  # fmt: skip


class _Exchange:
    def __init__(self, body: bytes) -> None:
        self.status = 0
        half = len(body) // 2
        self._pieces = [body[half:], body[:half]]

    async def receive(self) -> Message:
        if not self._pieces:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": self._pieces.pop(), "more_body": bool(self._pieces)}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
