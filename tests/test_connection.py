"""One call to the system for an answer: what leaves together, and that nothing stays behind."""

from __future__ import annotations

import asyncio
from typing import cast

from offramp.serving.http.one_write import OneWrite

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"


class Wire:
    """A transport that remembers its calls."""

    def __init__(self) -> None:
        self.calls: list[bytes | str] = []

    def write(self, data: bytes) -> None:
        self.calls.append(data)

    def close(self) -> None:
        self.calls.append("close")

    def is_closing(self) -> bool:
        return "close" in self.calls


def on(wire: Wire) -> OneWrite:
    return OneWrite(cast("asyncio.Transport", wire), asyncio.get_running_loop())


async def test_a_head_leaves_with_its_body() -> None:
    wire = Wire()
    transport = on(wire)
    transport.write(HEAD)
    assert wire.calls == []
    transport.write(b"ok")
    transport.write(b"more")
    assert wire.calls == [HEAD + b"ok", b"more"]
    await asyncio.sleep(0)
    assert wire.calls == [HEAD + b"ok", b"more"]


async def test_a_head_without_a_body_leaves_in_the_next_round_of_the_loop() -> None:
    wire = Wire()
    on(wire).write(HEAD)
    await asyncio.sleep(0)
    assert wire.calls == [HEAD]


async def test_what_was_kept_leaves_before_the_connection_closes() -> None:
    wire = Wire()
    transport = on(wire)
    transport.write(HEAD)
    transport.close()
    await asyncio.sleep(0)
    assert wire.calls == [HEAD, "close"] and transport.is_closing()


async def test_two_heads_in_one_round_keep_their_order() -> None:
    wire = Wire()
    transport = on(wire)
    transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    transport.write(HEAD)
    transport.write(b"ok")
    assert b"".join(each for each in wire.calls if isinstance(each, bytes)) == (
        b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + b"ok"
    )
