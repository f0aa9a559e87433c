"""The REST interface: everything it refuses over real HTTP, and the limits that protect it."""

from __future__ import annotations

import asyncio
import socket
import struct
import zlib
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio
from PIL import Image

from offramp.bundle import Bundle
from tests.nodes import Pixels, check_refused, encoded, png, predict, running_edge

CUT_OFF = (
    b'--x\r\ncontent-disposition: form-data; name="a"; filename="a.png"\r\n\r\nwhole\r\n'
    b'--x\r\ncontent-disposition: form-data; name="b"; filename="b.png"\r\n\r\nhal'
)


@pytest_asyncio.fixture(scope="module")
async def client(tiny_bundle: Bundle) -> AsyncIterator[httpx.AsyncClient]:
    """An edge that runs all blocks itself, and is soon out of patience."""
    async with running_edge(
        tiny_bundle, blocks="1-3", max_body_bytes=1_000_000, body_timeout_s=1.5
    ) as client:
        yield client


@pytest.fixture
def image(tiny_pixels: Pixels) -> bytes:
    return png(tiny_pixels[0])


def huge_png(width: int, height: int) -> bytes:
    """A PNG that claims a size without having its pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    data = zlib.compress(b"\0" * 1000)
    body = struct.pack(">I", len(data)) + b"IDAT" + data + struct.pack(">I", zlib.crc32(b"IDAT" + data))
    return b"\x89PNG\r\n\x1a\n" + chunk + body + struct.pack(">I", 0) + b"IEND" + b"\xaeB`\x82"


def raw_exchange(client: httpx.AsyncClient, request: bytes) -> bytes:
    with socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=5) as sock:
        sock.sendall(request)
        return sock.recv(4096)


class TestWhatItRefuses:
    @pytest.mark.parametrize(
        ("body", "content_type", "status", "says"),
        [
            (b"", "image/png", 400, "0 bytes"),
            (b"hello, this is text", "image/jpeg", 415, "JPEG, PNG or WebP"),
            (b"GIF89a" + b"\0" * 50, "image/gif", 415, "JPEG, PNG or WebP"),
            (b"hello", "text/plain", 415, "text/plain"),
            (b"<a/>", "application/xml", 415, "application/xml"),
            (b"{", "application/json", 400, "JSON"),
            (b"[]", "application/json", 400, "JSON"),
            (b"{}", "application/json", 400, 'either "image" or "images"'),
            (b'{"image": "AA==", "images": []}', "application/json", 400, "either"),
            (b'{"images": []}', "application/json", 400, "0 images"),
            (b'{"image": "no base64!"}', "application/json", 400, "not base64"),
            (b'{"image": 5}', "application/json", 400, "image"),
            (b'{"picture": "AA=="}', "application/json", 400, "picture"),
            (b"\xff\xfe", "application/json", 400, "JSON"),
            (b"--x\r\n", "multipart/form-data", 400, "multipart"),
            (b"rubbish", "multipart/form-data; boundary=x", 400, "multipart"),
            (b"--x--\r\n", "multipart/form-data; boundary=x", 400, "0 images"),
            (CUT_OFF + b"\r\n--x--", "multipart/form-data; boundary=x; charset=undefined", 400, "charset"),
            (CUT_OFF, "multipart/form-data; boundary=x", 400, "ends before its last boundary"),
        ],
    )
    async def test_a_body_that_is_no_image(
        self, client: httpx.AsyncClient, body: bytes, content_type: str, status: int, says: str
    ) -> None:
        response = await client.post("/v1/predict", content=body, headers={"content-type": content_type})
        check_refused(response, status, says)

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
    async def test_a_truncated_image(self, client: httpx.AsyncClient, kind: str) -> None:
        whole = encoded(Image.effect_noise((64, 64), 60).convert("RGB"), kind)
        response = await client.post("/v1/predict", content=whole[: len(whole) // 2])
        check_refused(response, 400, "cannot be decoded", "send the whole file again")

    @pytest.mark.parametrize(("side", "says"), [(8_000, "8000 x 8000"), (60_000, "60000 x 60000")])
    async def test_a_decompression_bomb_before_it_is_decoded(
        self, client: httpx.AsyncClient, side: int, says: str
    ) -> None:
        response = await client.post("/v1/predict", content=huge_png(side, side))
        check_refused(response, 413, says, "EDGE_MAX_PIXELS")

    async def test_a_strip_of_1_x_10000_pixels(self, client: httpx.AsyncClient) -> None:
        strip = encoded(Image.new("RGB", (10_000, 1)), "PNG")
        check_refused(await client.post("/v1/predict", content=strip), 400, "10000 x 1", "crop")

    async def test_a_body_beyond_the_limit_by_its_length(self, client: httpx.AsyncClient) -> None:
        response = await client.post("/v1/predict", content=b"\0" * 20_000_000)
        check_refused(response, 413, "20000000", "1000000 (EDGE_MAX_BODY_BYTES)")

    async def test_a_body_beyond_the_limit_that_tells_no_length(self, client: httpx.AsyncClient) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(30):
                yield b"\0" * 100_000

        check_refused(
            await client.post("/v1/predict", content=chunks()), 413, "1000000 (EDGE_MAX_BODY_BYTES)"
        )

    async def test_a_thousand_images_as_json(self, client: httpx.AsyncClient) -> None:
        response = await client.post("/v1/predict", json={"images": ["AA=="] * 1000})
        check_refused(response, 413, "1000 images", "1 to 64 (EDGE_MAX_IMAGES)")

    async def test_a_thousand_images_as_files(self, client: httpx.AsyncClient) -> None:
        files = [("image", (f"{n}.png", b"x")) for n in range(1000)]
        check_refused(await client.post("/v1/predict", files=files), 413, "1 to 64 (EDGE_MAX_IMAGES)")

    async def test_one_bad_image_among_good_ones_is_named(
        self, client: httpx.AsyncClient, image: bytes
    ) -> None:
        files = [("image", ("a.png", image)), ("image", ("b.png", b"x"))]
        check_refused(await client.post("/v1/predict", files=files), 415, "image 2 of 2")

    @pytest.mark.parametrize("query", ["verbose=1", "probabilities=maybe", "probabilities", "="])
    async def test_an_unknown_query(self, client: httpx.AsyncClient, image: bytes, query: str) -> None:
        check_refused(await client.post(f"/v1/predict?{query}", content=image), 400)

    async def test_a_request_id_that_could_forge_a_log_line(
        self, client: httpx.AsyncClient, image: bytes
    ) -> None:
        response = await client.post("/v1/predict", content=image, headers={"x-request-id": "a b=c"})
        check_refused(response, 400, "x-request-id")

    async def test_other_methods_and_paths(self, client: httpx.AsyncClient) -> None:
        response = await client.get("/v1/predict")
        check_refused(response, 405, "POST")
        assert response.headers["allow"] == "POST"
        check_refused(await client.get("/v2/predict"), 404, "/v2/predict")
        check_refused(await client.post("/v1/bundle"), 405)

    async def test_an_offer_to_change_the_protocol(self, client: httpx.AsyncClient, image: bytes) -> None:
        headers = {"connection": "upgrade", "upgrade": "h2c"}
        response = await client.post("/v1/predict", content=image, headers=headers)
        check_refused(response, 400, "upgrade: h2c", "plain HTTP/1.1")

    async def test_a_body_that_does_not_arrive(self, client: httpx.AsyncClient) -> None:
        head = b"POST /v1/predict HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nabc"
        assert b"408" in await asyncio.to_thread(raw_exchange, client, head)

    async def test_half_a_header_does_no_harm(self, client: httpx.AsyncClient, image: bytes) -> None:
        sock = socket.create_connection((client.base_url.host, client.base_url.port or 80))
        sock.sendall(b"POST /v1/pre")
        sock.close()
        assert await predict(client, image)

    async def test_the_node_answers_others_meanwhile(self, client: httpx.AsyncClient, image: bytes) -> None:
        bad = [client.post("/v1/predict", content=huge_png(50_000, 50_000)) for _ in range(10)]
        good = [client.post("/v1/predict", content=image) for _ in range(10)]
        statuses = [response.status_code for response in await asyncio.gather(*bad, *good)]
        assert statuses == [413] * 10 + [200] * 10


async def posted_at_once(client: httpx.AsyncClient, image: bytes, count: int) -> list[tuple[int, bytes]]:
    """Status and all that was answered, of requests whose last bytes leave in one moment."""
    address = client.base_url.host, client.base_url.port
    connections = [await asyncio.open_connection(*address) for _ in range(count)]
    head = (
        f"POST /v1/predict HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(image)}\r\n\r\n"
    )
    for _, writer in connections:
        writer.write(head.encode() + image)
    answers = [await reader.read() for reader, _ in connections]
    for _, writer in connections:
        writer.close()
    return [(int(answer.split()[1]), answer) for answer in answers]


async def test_a_full_queue_is_503_with_retry_after(tiny_bundle: Bundle, image: bytes) -> None:
    async with running_edge(tiny_bundle, blocks="1-3", max_pending=1, workers=1) as client:
        answers = await posted_at_once(client, image, 40)
    assert {status for status, _ in answers} == {200, 503}
    refused = next(answer for status, answer in answers if status == 503)
    assert b"retry-after: 1" in refused and b'"overloaded"' in refused


async def test_bodies_together_stay_within_the_memory_that_is_set_aside(
    tiny_bundle: Bundle, image: bytes
) -> None:
    async with running_edge(tiny_bundle, blocks="1-3", max_buffered_bytes=3 * len(image)) as client:
        answers = await posted_at_once(client, image, 40)
        assert {status for status, _ in answers} == {200, 503}
        assert (await client.post("/v1/predict", content=image)).status_code == 200, "all of it is given back"


async def test_images_of_one_request_share_one_limit_of_pixels(tiny_bundle: Bundle) -> None:
    photo = encoded(Image.new("RGB", (1000, 1000)), "PNG")
    async with running_edge(tiny_bundle, blocks="1-3", max_pixels=2_500_000) as client:
        fits = await client.post("/v1/predict", files=[("a", ("a.png", photo))] * 2)
        response = await client.post("/v1/predict", files=[("a", ("a.png", photo))] * 3)
    assert fits.status_code == 200
    check_refused(response, 413, "image 3 of 3", "over its limit of 2500000 pixels (EDGE_MAX_PIXELS)")
