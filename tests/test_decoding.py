"""Images that are large or strange are decoded in processes: within limits, and given up with whoever asked."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
import pytest_asyncio
from numpy.typing import NDArray
from PIL import Image

from offramp.bundle import Bundle
from offramp.engine.images import decode_images, open_images
from offramp.errors import ExpiredError, RequestError, TooLargeError, UnsupportedMediaError
from offramp.serving.decoding.decoders import Decoders, DecodingLimits
from offramp.wire.v1 import wire_pb2 as pb
from offramp.wire.v1.wire_pb2_grpc import TierServiceStub
from tests.nodes import check_refused, encoded, png, predict, running_cloud, running_edge
from tests.pngs import png_that_claims


def flat(width: int, height: int, kind: str = "PNG") -> bytes:
    """An image that is small as a file, whatever its size."""
    return encoded(Image.new("RGB", (width, height), (200, 10, 10)), kind)


@asynccontextmanager
async def decoders(**limits: Any) -> AsyncIterator[Decoders]:
    found = Decoders(DecodingLimits(**limits))
    try:
        yield found
    finally:
        found.close()


async def decode(
    decoders: Decoders, load: Callable[..., Any], *values: Any, **given: Any
) -> NDArray[np.uint8]:
    decoded = await decoders.decode(partial(load, *values), **{"num_pixels": 100, "shape": (4,), **given})
    return decoded.pixels


def at_work() -> list[psutil.Process]:
    """The processes below this one that have not ended."""
    found = psutil.Process().children(recursive=True)
    return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]


async def decoding_process(decoders: Decoders) -> psutil.Process:
    """The process that decodes for these decoders, if they have one."""
    pixels = await decode(decoders, PROCESS_ID, shape=(11,))
    return psutil.Process(int(pixels.tobytes()))


# The number of the process that this is called in, in digits.
PROCESS_ID = partial(
    eval, "__import__('numpy').frombuffer(b'%011d' % __import__('os').getpid(), 'uint8')", {}
)
LARGE_FILE = flat(4000, 3000)
FOUR = partial(np.arange, 4, dtype=np.uint8)


@pytest_asyncio.fixture(scope="module")
async def found() -> AsyncIterator[Decoders]:
    async with decoders(processes=1, timeout_s=2.0, max_pixels=1_000_000, settings=("LONGEST", "")) as found:
        yield found


class TestDecoders:
    async def test_what_comes_back_is_what_was_decoded(self, found: Decoders, tiny_bundle: Bundle) -> None:
        preprocessing = tiny_bundle.manifest.preprocessing
        files = [flat(700, 500), encoded(Image.linear_gradient("L").resize((900, 600)), "JPEG")]
        load = partial(open_images(files).decode, preprocessing)
        pixels = await decode(found, load, shape=(2, *preprocessing.pixel_shape))
        np.testing.assert_array_equal(pixels, decode_images(files, preprocessing))

    @pytest.mark.parametrize(
        ("data", "kind"),
        [
            (b"\xff\xd8\xff", RequestError),
            (b"hello", UnsupportedMediaError),
            (png_that_claims(9000, 9000), TooLargeError),
        ],
    )
    async def test_its_errors_come_back_as_they_are(
        self, found: Decoders, data: bytes, kind: type[RequestError]
    ) -> None:
        with pytest.raises(RequestError) as expected:
            open_images([data])
        with pytest.raises(kind) as refused:
            await decode(found, open_images, [data])
        assert (type(refused.value), str(refused.value)) == (kind, str(expected.value))

    async def test_a_bug_is_not_blamed_on_the_image(self, found: Decoders) -> None:
        with pytest.raises(RuntimeError, match="ZeroDivisionError"):
            await decode(found, divmod, 1, 0)
        with pytest.raises(RuntimeError, match="answered"):
            await decode(found, FOUR, shape=(5,))

    async def test_what_takes_too_long_is_given_up_and_the_next_one_is_answered(
        self, found: Decoders
    ) -> None:
        with pytest.raises(TooLargeError, match=r"longer than 2 s \(LONGEST\)"):
            await decode(found, time.sleep, 60)
        assert (await decode(found, FOUR)).tolist() == [0, 1, 2, 3]

    async def test_what_nobody_waits_for_any_more_is_given_up_within_milliseconds(
        self, found: Decoders
    ) -> None:
        decoder = await decoding_process(found)
        given_up = asyncio.create_task(decode(found, time.sleep, 60))
        await asyncio.sleep(0.05)
        given_up.cancel()
        started = time.perf_counter()
        await decode(found, FOUR)
        assert time.perf_counter() - started < 1
        await asyncio.to_thread(decoder.wait, 5)  # the system takes its time to end what was killed

    async def test_what_soon_ends_keeps_its_process_when_nobody_waits_for_it(self, found: Decoders) -> None:
        decoder = await decoding_process(found)
        for _ in range(5):
            left = asyncio.create_task(decode(found, time.sleep, 0.01))
            await asyncio.sleep(0.005)
            left.cancel()
        assert len(await decode(found, FOUR)) == 4
        assert decoder.is_running() and decoder in at_work()

    async def test_a_deadline_ends_it_too(self, found: Decoders) -> None:
        with pytest.raises(ExpiredError, match="deadline passed"):
            await decode(found, time.sleep, 60, deadline=time.monotonic() + 0.1)
        assert len(await decode(found, FOUR)) == 4

    async def test_one_that_takes_too_much_memory_ends_only_itself(self, found: Decoders) -> None:
        with pytest.raises(TooLargeError, match="more memory"):
            await decode(found, bytearray, 1 << 30)
        assert len(await decode(found, FOUR)) == 4

    async def test_one_that_ends_its_process_is_refused_and_the_next_one_is_answered(
        self, found: Decoders
    ) -> None:
        with pytest.raises(RequestError, match="two processes ended"):
            await decode(found, os._exit, 3)
        assert len(await decode(found, FOUR)) == 4

    async def test_processes_that_are_killed_from_outside_cost_no_request(self, found: Decoders) -> None:
        await decode(found, FOUR)
        for process in at_work():
            process.kill()
        assert len(await decode(found, FOUR)) == 4

    async def test_stopping_does_not_wait_for_it(self) -> None:
        async with decoders() as found:
            stuck = [asyncio.create_task(decode(found, time.sleep, 60)) for _ in range(2)]
            await asyncio.sleep(0.1)
            started = time.perf_counter()
            found.close()
            assert time.perf_counter() - started < 1
            for task in stuck:
                task.cancel()
            ended = await asyncio.gather(*stuck, return_exceptions=True)
        assert len(ended) == 2


_A_NODE = """
import asyncio, time
from functools import partial
from offramp.serving.decoding.decoders import Decoders, DecodingLimits

async def main():
    decoders = Decoders(DecodingLimits())
    asyncio.create_task(decoders.decode(partial(time.sleep, 60), num_pixels=1, shape=(1,)))
    while not decoders._busy:
        await asyncio.sleep(0.01)
    print("ready", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def test_decoders_end_with_their_node_however_it_ends() -> None:
    with subprocess.Popen([sys.executable, "-c", _A_NODE], stdout=subprocess.PIPE) as node:
        assert node.stdout is not None and node.stdout.readline() == b"ready\n"
        below = psutil.Process(node.pid).children(recursive=True)
        assert len(below) == 2, "one that forks, and the one that decodes"
        node.send_signal(signal.SIGKILL)
    _, left = psutil.wait_procs(below, timeout=5)
    assert not left


class TestNodes:
    async def test_a_small_photo_needs_no_process(self, tiny_bundle: Bundle) -> None:
        async with running_edge(tiny_bundle, blocks="1-3") as client:
            before = len(at_work())
            await predict(client, png(np.zeros((8, 8, 3), np.uint8)))
            assert len(at_work()) == before
            await predict(client, flat(600, 600))
            assert len(at_work()) > before

    async def test_one_that_takes_too_long_is_told_so_over_http(self, tiny_bundle: Bundle) -> None:
        async with running_edge(tiny_bundle, blocks="1-3", decode_timeout_s=0.01) as client:
            response = await client.post("/v1/predict", content=LARGE_FILE)
            check_refused(response, 413, "longer than 0.01 s (EDGE_DECODE_TIMEOUT_S)")

    async def test_one_that_takes_too_long_is_told_so_over_grpc(self, tiny_bundle: Bundle) -> None:
        request = pb.InferRequest(
            bundle_id=tiny_bundle.manifest.bundle_id,
            request_ids=["a"],
            next_block=1,
            thetas=[1.0, 1.0],
            images=[LARGE_FILE],
        )
        async with (
            running_cloud(tiny_bundle, blocks="1-3", decode_timeout_s=0.01) as address,
            grpc.aio.insecure_channel(address) as channel,
        ):
            with pytest.raises(grpc.aio.AioRpcError, match="CLOUD_DECODE_TIMEOUT_S") as refused:
                await TierServiceStub(channel).Infer(request, timeout=10)  # type: ignore[no-untyped-call]
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    async def test_pixels_beyond_what_may_wait_are_refused_and_small_photos_are_not(
        self, tiny_bundle: Bundle
    ) -> None:
        async with running_edge(
            tiny_bundle, blocks="1-3", decoders=1, max_waiting_pixels=20_000_000
        ) as client:
            large = [client.post("/v1/predict", content=LARGE_FILE) for _ in range(4)]
            small = predict(client, png(np.zeros((8, 8, 3), np.uint8)))
            asked = asyncio.gather(*large)
            answer = await small
            statuses = sorted(response.status_code for response in await asked)
        assert answer["bundle"] == tiny_bundle.manifest.bundle_id
        assert statuses == [200, 503, 503, 503]
