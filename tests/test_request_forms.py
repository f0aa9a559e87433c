"""Requests as gateways and clients send them, and JSON and multipart bodies that nobody should."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import time
from collections.abc import AsyncIterator

import httpx
import numpy as np
import pytest
import pytest_asyncio

from offramp.bundle import Bundle
from tests.nodes import check_refused, png, running_edge

PHOTO = png(np.full((8, 8, 3), 128, np.uint8))
AS_JSON = json.dumps({"image": base64.b64encode(PHOTO).decode()}).encode()
PART = b'--x\r\ncontent-disposition: form-data; name="a"; filename="a.png"\r\n\r\n' + PHOTO + b"\r\n"
FORM = "multipart/form-data; boundary=x"


@pytest_asyncio.fixture(scope="module")
async def client(tiny_bundle: Bundle) -> AsyncIterator[httpx.AsyncClient]:
    """An edge that runs all blocks itself."""
    async with running_edge(tiny_bundle, blocks="1-3") as client:
        yield client


async def post(client: httpx.AsyncClient, body: bytes, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.post("/v1/predict", content=body, headers=named)


@pytest.mark.parametrize(
    "path", ["/", "/healthz", "/readyz", "/metrics", "/v1/policy", "/v1/bundle", "/docs"]
)
async def test_head_is_answered_wherever_get_is(client: httpx.AsyncClient, path: str) -> None:
    found = await client.head(path)
    assert (found.status_code, found.content) == (200, b"")
    if path != "/metrics":  # its figures change
        assert found.headers["content-length"] == str(len((await client.get(path)).content))


async def test_a_405_names_every_method_of_the_path(client: httpx.AsyncClient) -> None:
    assert (await client.delete("/v1/policy")).headers["allow"] == "GET, HEAD, PUT"
    assert (await client.post("/healthz")).headers["allow"] == "GET, HEAD"
    assert (await client.head("/v1/predict")).headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("a.b-c_1", "a.b-c_1"),
        ("gw#1", "gw_1"),
        ("Root=1-67891233-abc;x/y", "Root_1-67891233-abc_x_y"),
        ("a" * 65, "a" * 64),
        ("a" * 5000, "a" * 64),
    ],
    ids=["plain", "a sharp", "as a balancer writes it", "65 characters", "5000 characters"],
)
async def test_an_id_of_a_gateway_is_taken_and_told(client: httpx.AsyncClient, given: str, used: str) -> None:
    response = await post(client, PHOTO, x_request_id=given)
    assert (response.status_code, response.headers["x-request-id"]) == (200, used)
    assert response.json()["request_id"] == used


@pytest.mark.parametrize("given", ["", "a b", "é"])
async def test_an_id_that_is_empty_or_not_visible_is_refused(client: httpx.AsyncClient, given: str) -> None:
    response = await client.post(
        "/v1/predict", content=PHOTO, headers=[(b"x-request-id", given.encode("latin-1"))]
    )
    check_refused(response, 400, "x-request-id")


async def test_a_refusal_tells_the_id_too(client: httpx.AsyncClient) -> None:
    assert (await post(client, b"x", x_request_id="mine")).headers["x-request-id"] == "mine"


class TestCompressed:
    @pytest.mark.parametrize("body", [PHOTO, AS_JSON])
    async def test_gzip_is_read(self, client: httpx.AsyncClient, body: bytes) -> None:
        kind = "application/json" if body is AS_JSON else "image/png"
        response = await post(client, gzip.compress(body), content_encoding="gzip", content_type=kind)
        assert response.status_code == 200

    async def test_what_it_becomes_is_limited(self, client: httpx.AsyncClient) -> None:
        bomb = gzip.compress(b"\0" * 40_000_000)
        check_refused(await post(client, bomb, content_encoding="gzip"), 413, "EDGE_MAX_BODY_BYTES")

    @pytest.mark.parametrize(
        ("body", "says"),
        [(PHOTO, "is not"), (gzip.compress(PHOTO)[:-4], "ends early"), (gzip.compress(PHOTO) * 2, "goes on")],
        ids=["not gzip", "cut off", "two"],
    )
    async def test_what_is_not_gzip_is_refused(
        self, client: httpx.AsyncClient, body: bytes, says: str
    ) -> None:
        check_refused(await post(client, body, content_encoding="gzip"), 400, "gzip", says)

    @pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip"])
    async def test_other_encodings_are_named(self, client: httpx.AsyncClient, encoding: str) -> None:
        check_refused(await post(client, PHOTO, content_encoding=encoding), 415, encoding, "gzip")

    async def test_a_change_of_policy_may_be_compressed(self, client: httpx.AsyncClient) -> None:
        headers = {"content-type": "application/json", "content-encoding": "gzip"}
        body = gzip.compress(b'{"thetas": [0.5, 0.5]}')
        assert (await client.put("/v1/policy", content=body, headers=headers)).status_code == 200


class TestJson:
    async def test_a_byte_order_mark_is_read(self, client: httpx.AsyncClient) -> None:
        assert (await post(client, b"\xef\xbb\xbf" + AS_JSON, content_type="application/json")).is_success

    async def test_utf_16_is_called_that(self, client: httpx.AsyncClient) -> None:
        body = AS_JSON.decode().encode("utf-16")
        check_refused(await post(client, body, content_type="application/json"), 400, "UTF-16")

    @pytest.mark.parametrize(
        "body",
        [
            b"{" + b",".join(b'"k%d":0' % n for n in range(700_000)) + b"}",
            b'{"images":[' + b"[]," * 2_000_000 + b"0]}",
            b'{"images":[' + b"0," * 3_000_000 + b"0]}",
            b"[" * 5_000_000,
            b'{"images":[' + b'"",' * 2_000_000 + b'""]}',
        ],
        ids=["keys", "lists", "numbers", "depth", "strings"],
    )
    async def test_what_no_client_sends_does_not_stop_the_loop(
        self, client: httpx.AsyncClient, body: bytes
    ) -> None:
        longest = asyncio.create_task(_longest_pause())
        response = await post(client, body, content_type="application/json")
        assert response.status_code in (400, 413)
        longest.cancel()
        assert await longest < 0.4

    async def test_large_pictures_do_not_stop_the_loop(self, client: httpx.AsyncClient) -> None:
        text = base64.b64encode(PHOTO + b"\0" * 20_000_000)
        pauses = []
        for _ in range(3):
            longest = asyncio.create_task(_longest_pause())
            response = await post(client, b'{"image":"' + text + b'"}', content_type="application/json")
            assert response.status_code == 200
            longest.cancel()
            pauses.append(await longest)
        assert min(pauses) < 0.4, "a busy machine may take longer, but not every time"

    @pytest.mark.parametrize("text", ["AA==AAAA", "AAA", "=", "A" * 300_000 + "=AAA", "ÄAAA"])
    async def test_what_is_not_base64_is_refused(self, client: httpx.AsyncClient, text: str) -> None:
        check_refused(await client.post("/v1/predict", json={"image": text}), 400, "not base64")


async def _longest_pause() -> float:
    """The longest time that the event loop took for one round, until cancelled."""
    longest, before = 0.0, time.perf_counter()
    try:
        while True:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            longest, before = max(longest, now - before), now
    except asyncio.CancelledError:
        return longest


class TestMultipart:
    @pytest.mark.parametrize(
        "body",
        [
            PART + b"--x--",
            PART + b"--x--\r\n",
            PART + b"--x--\r\nan epilogue\r\n",
            b"a preamble\r\n" + PART + b"--x--",
            PART.replace(b"--x\r\n", b"--x \t\r\n") + b"--x--",
            PART.replace(b"form-data", b"FORM-DATA").replace(b"content-d", b"Content-D") + b"--x--",
        ],
        ids=["plain", "a line break", "an epilogue", "a preamble", "padding", "capitals"],
    )
    async def test_the_forms_that_a_body_may_have(self, client: httpx.AsyncClient, body: bytes) -> None:
        response = await post(client, body, content_type=FORM)
        assert response.status_code == 200, response.text

    async def test_a_missing_boundary_is_called_that(self, client: httpx.AsyncClient) -> None:
        for kind in ("multipart/form-data", "multipart/form-data; boundary=", FORM + "y" * 70):
            check_refused(await post(client, PART + b"--x--", content_type=kind), 400, "no boundary")

    async def test_a_boundary_that_the_body_does_not_have_is_called_that(
        self, client: httpx.AsyncClient
    ) -> None:
        kind = "multipart/form-data; boundary=other"
        check_refused(await post(client, PART + b"--x--", content_type=kind), 400, "nowhere in the body")

    async def test_what_begins_like_a_boundary_is_content(self, client: httpx.AsyncClient) -> None:
        body = PART[:-2] + b"\r\n--xylophone\r\n" + b"\r\n--x--"
        assert (await post(client, body, content_type=FORM)).status_code == 200

    @pytest.mark.parametrize(
        ("body", "status", "says"),
        [
            (b"--x\r\n" + b"a: b\r\n" * 1_000_000 + b"\r\n--x--", 413, "headers"),
            (b"--x\r\n\r\n" + b"\r\n--xy" * 1_000_000 + b"\r\n--x--", 400, "boundary"),
            (
                b'--x\r\ncontent-disposition: form-data; name="a"\r\n\r\n1\r\n--x--',
                400,
                "part 1 is not a file",
            ),
            (b"--x\r\n\r\n--x--", 400, "part 1 is not a file"),
            (PART * 65 + b"--x--", 413, "1 to 64"),
        ],
        ids=["a million headers", "a million boundaries, almost", "a field", "nothing", "65 files"],
    )
    async def test_what_is_no_list_of_files_is_refused(
        self, client: httpx.AsyncClient, body: bytes, status: int, says: str
    ) -> None:
        check_refused(await post(client, body, content_type=FORM), status, says)
