"""The slow line: everything arrives, later, and is counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from offramp.bundle import Bundle
from offramp.serving.link import Link, LinkSettings
from tests.commands import offramp
from tests.nodes import png, predict, running_cloud, running_edge


@asynccontextmanager
async def echo() -> AsyncIterator[str]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def sent_and_back(link: Link, data: bytes) -> tuple[bytes, float]:
    reader, writer = await asyncio.open_connection(link.host, link.port)
    started = time.monotonic()
    writer.write(data)
    writer.write_eof()
    back = await reader.read(-1)
    writer.close()
    return back, time.monotonic() - started


async def test_everything_arrives_in_order_and_is_counted() -> None:
    data = bytes(range(256)) * 4000
    settings = LinkSettings(delay_ms=1, jitter_ms=3)
    async with echo() as target, Link(target, settings) as link:
        back, _ = await sent_and_back(link, data)
    assert back == data
    assert (link.up_bytes, link.down_bytes) == (len(data), len(data))


async def test_a_delay_is_paid_in_both_directions() -> None:
    async with echo() as target, Link(target, LinkSettings(delay_ms=100)) as link:
        _, took_s = await sent_and_back(link, b"ping")
    assert took_s >= 0.2


async def test_a_rate_is_kept() -> None:
    async with echo() as target, Link(target, LinkSettings(rate_mbit=1)) as link:
        _, took_s = await sent_and_back(link, bytes(25_000))
    assert took_s >= 0.2, "200,000 bits at a million a second, and back behind them"


async def test_a_target_that_is_gone_is_a_connection_cut() -> None:
    async with echo() as target:
        pass
    async with Link(target) as link:
        reader, writer = await asyncio.open_connection(link.host, link.port)
        with pytest.raises(ConnectionError):  # noqa: PT012 - the end of a stream is no exception by itself
            writer.write(b"ping")
            if not await reader.read():
                raise ConnectionResetError
        writer.close()


async def test_a_slow_line_makes_an_offload_late_and_its_answer_degraded(tiny_bundle: Bundle) -> None:
    import numpy as np

    image = png(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    async with (
        running_cloud(tiny_bundle) as cloud,
        Link(cloud, LinkSettings(delay_ms=100)) as link,
        running_edge(tiny_bundle, upstream=f"127.0.0.1:{link.port}", offload_timeout_s=0.15) as hasty,
        running_edge(tiny_bundle, upstream=f"127.0.0.1:{link.port}", offload_timeout_s=5.0) as patient,
    ):
        for client in (hasty, patient):
            await client.put("/v1/policy", json={"thetas": [1.0, 1.0]})
        late, whole = await predict(hasty, image), await predict(patient, image)
    assert late["degraded"] and "did not answer within" in late["degraded_reason"]
    assert not whole["degraded"] and whole["timings_ms"]["offload"] >= 200


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--delay", "40"], "--delay is '40': write a number and one of ms, s"),
        (["--rate", "2mb"], "--rate is '2mb': write a number and one of kbit, mbit, gbit"),
        (["--target", "cloud"], "--target is 'cloud': write HOST:PORT"),
    ],
)
def test_a_line_nobody_can_build_is_refused(options: list[str], says: str) -> None:
    result = offramp("link", *options)
    assert result.exit_code == 2 and says in result.stderr
