"""The edge node's front door: connections, heads and bodies beyond its limits, and clients that leave."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import httpx
import numpy as np
import pytest
import pytest_asyncio

from edge_node.errors import refusal_for
from offramp.bundle import Bundle
from offramp.errors import RequestError
from offramp.serving.http import limits
from offramp.serving.http.limits import HEAD_BYTES, HEADERS
from tests.conftest import ROOT
from tests.nodes import check_refused, png, predict, running_edge
from tests.raw_http import answered, connected, exchange, request
from tests.test_processes import check_one_clear_line, run_node

PHOTO = png(np.full((8, 8, 3), 128, np.uint8))


@pytest_asyncio.fixture(scope="module")
async def client(tiny_bundle: Bundle) -> AsyncIterator[httpx.AsyncClient]:
    """An edge that holds few connections and has little patience."""
    async with running_edge(
        tiny_bundle, blocks="1-3", max_connections=20, head_timeout_s=0.6, idle_timeout_s=0.6
    ) as client:
        yield client


@pytest_asyncio.fixture(scope="module")
async def slow(tiny_bundle: Bundle) -> AsyncIterator[httpx.AsyncClient]:
    """An edge that holds each request back for half a second, so that one is under way meanwhile."""
    async with running_edge(tiny_bundle, blocks="1-3", batch_window_ms=500, max_pending=4) as client:
        yield client


class TestConnections:
    async def test_half_heads_do_not_keep_others_out(
        self, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with AsyncExitStack() as stack:
            for _ in range(60):
                _, writer = await stack.enter_async_context(connected(client))
                writer.write(b"POST /v1/predict HTTP/1.1\r\nhost: x")
            for _ in range(5):
                assert (await exchange(client, request(PHOTO)))[0] == 200
        assert "event=connections_closed" in caplog.text

    async def test_a_head_that_does_not_come_is_told_so(self, client: httpx.AsyncClient) -> None:
        status, head, _ = await exchange(client, b"POST /v1/predict HTTP/1.1\r\nhost: x")
        assert status == 408 and b"connection: close" in head

    async def test_an_idle_connection_is_closed(self, client: httpx.AsyncClient) -> None:
        async with connected(client) as (reader, writer), asyncio.timeout(5):
            writer.write(request(method="GET", path="/healthz"))
            assert (await answered(reader))[0] == 200
            assert await reader.read() == b""

    async def test_if_all_are_at_work_a_new_one_is_refused(self, tiny_bundle: Bundle) -> None:
        async with (
            running_edge(tiny_bundle, blocks="1-3", max_connections=2, batch_window_ms=300) as node,
            AsyncExitStack() as stack,
        ):
            at_work = [await stack.enter_async_context(connected(node)) for _ in range(2)]
            for _, writer in at_work:
                writer.write(request(PHOTO))
            await asyncio.sleep(0.05)
            status, head, _ = await exchange(node, request(PHOTO))
            assert status == 503 and b"retry-after: 1" in head
            assert [(await answered(reader))[0] for reader, _ in at_work] == [200, 200]


class TestHeads:
    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ([f"x-{n}: a" for n in range(HEADERS - 2)], 200),
            ([f"x-{n}: a" for n in range(HEADERS)], 431),
            (["x: " + "a" * HEAD_BYTES], 431),
            (["host: a", "host: b"], 400),
            (["content-length: 5"], 400),
            (["transfer-encoding: chunked"], 400),
            (["host : a"], 400),
        ],
        ids=["many headers", "too many", "a long one", "two hosts", "two lengths", "chunks too", "a blank"],
    )
    async def test_what_a_head_may_be(
        self, client: httpx.AsyncClient, headers: list[str], status: int
    ) -> None:
        assert (await exchange(client, request(PHOTO, *headers)))[0] == status

    async def test_no_host_is_refused(self, client: httpx.AsyncClient) -> None:
        status, _, body = await exchange(client, b"GET /healthz HTTP/1.1\r\n\r\n")
        assert status == 400 and b"no Host headers" in body

    async def test_a_header_without_end_is_refused_before_it_ends(self, client: httpx.AsyncClient) -> None:
        async with connected(client) as (reader, writer):
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nx: ")
            for _ in range(40):
                writer.write(b"a" * 20_000)
                await asyncio.sleep(0)
            assert (await answered(reader))[0] == 431

    async def test_junk_is_refused_with_the_usual_body(self, client: httpx.AsyncClient) -> None:
        for junk in (b"\x16\x03\x01\x02\x00\r\n\r\n", b"GET ?a HTTP/1.1\r\nhost: x\r\n\r\n"):
            status, head, body = await exchange(client, junk)
            assert status == 400 and b"application/json" in head and b'"bad_request"' in body

    async def test_whole_requests_before_a_broken_one_are_answered_first(
        self, client: httpx.AsyncClient
    ) -> None:
        async with connected(client) as (reader, writer):
            writer.write(request(PHOTO) * 2 + b"rubbish\r\n\r\n")
            assert [(await answered(reader))[0] for _ in range(2)] == [200, 200]
            assert await reader.read() == b""

    async def test_a_million_headers_do_not_stop_the_loop(self, client: httpx.AsyncClient) -> None:
        data = b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 1_000_000 + b"\r\n"
        async with connected(client) as (reader, writer):
            begun = time.process_time()
            writer.write(data)
            assert (await answered(reader))[0] == 431
        assert time.process_time() - begun < 0.3


class TestBodies:
    async def test_lengths_that_are_only_announced_take_no_memory(self, tiny_bundle: Bundle) -> None:
        async with (
            running_edge(tiny_bundle, blocks="1-3", max_buffered_bytes=40_000_000) as node,
            AsyncExitStack() as stack,
        ):
            for _ in range(26):
                _, writer = await stack.enter_async_context(connected(node))
                writer.write(b"POST /v1/predict HTTP/1.1\r\nhost: x\r\ncontent-length: 10000000\r\n\r\n")
            await asyncio.sleep(0.05)
            assert await predict(node, PHOTO)

    async def test_one_client_that_stalls_leaves_memory_for_the_others(self, tiny_bundle: Bundle) -> None:
        async with (
            running_edge(
                tiny_bundle, blocks="1-3", max_buffered_bytes=400_000, max_body_bytes=100_000
            ) as node,
            AsyncExitStack() as stack,
        ):
            for _ in range(8):
                _, writer = await asyncio.open_connection(
                    node.base_url.host, node.base_url.port, local_addr=("127.0.0.2", 0)
                )
                stack.callback(writer.close)
                writer.write(request(b"\0" * 100_000)[:-1])
            await asyncio.sleep(0.1)
            status, _, _ = await exchange(node, request(PHOTO + b"\0" * (60_000 - len(PHOTO))))
            assert status == 200

    async def test_a_body_of_countless_chunks_is_refused(self, client: httpx.AsyncClient) -> None:
        head = b"POST /v1/predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        assert (await exchange(client, head + b"1\r\na\r\n" * 10_000))[0] == 400

    async def test_a_trailer_is_no_header(self, client: httpx.AsyncClient) -> None:
        head = b"POST /v1/predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        chunk = b"%x\r\n%b\r\n0\r\nx-request-id: trailer\r\n\r\n" % (len(PHOTO), PHOTO)
        status, _, body = await exchange(client, head + chunk)
        assert status == 200 and b"trailer" not in body


class TestClientsThatLeave:
    async def test_what_they_asked_for_ends(self, slow: httpx.AsyncClient) -> None:
        async with connected(slow) as (_, writer):
            writer.write(request(PHOTO))
            await asyncio.sleep(0.05)
            assert "offramp_pending 1.0" in (await slow.get("/metrics")).text
        await asyncio.sleep(0.1)
        text = (await slow.get("/metrics")).text
        assert "offramp_pending 0.0" in text and 'offramp_refused_total{code="client_left"} 1.0' in text

    async def test_one_that_only_stops_sending_gets_its_answers(self, slow: httpx.AsyncClient) -> None:
        async with connected(slow) as (reader, writer):
            writer.write(request(PHOTO) * 2)
            writer.write_eof()
            assert [(await answered(reader))[0] for _ in range(2)] == [200, 200]
            assert await reader.read() == b""


class TestDeadlines:
    async def test_an_answer_that_would_be_late_is_504(self, slow: httpx.AsyncClient) -> None:
        begun = time.monotonic()
        response = await slow.post("/v1/predict", content=PHOTO, headers={"x-request-timeout-ms": "60"})
        check_refused(response, 504, "x-request-timeout-ms")
        assert response.json()["code"] == "expired" and time.monotonic() - begun < 0.4

    async def test_one_in_time_is_given(self, slow: httpx.AsyncClient) -> None:
        assert await predict(slow, PHOTO, **{"x-request-timeout-ms": "5000"})

    @pytest.mark.parametrize("value", ["", "0", "-1", "1.5", "600001", "9" * 400, "soon", "\u0664"])
    async def test_one_that_is_no_time_is_refused(self, client: httpx.AsyncClient, value: str) -> None:
        response = await client.post(
            "/v1/predict", content=PHOTO, headers=[(b"x-request-timeout-ms", value.encode())]
        )
        check_refused(response, 400, "x-request-timeout-ms", "1 to 600000")


class TestFullNodes:
    async def test_a_path_that_is_full_refuses_on_connections_that_go_on(
        self, slow: httpx.AsyncClient
    ) -> None:
        async with AsyncExitStack() as stack:
            at_work = [await stack.enter_async_context(connected(slow)) for _ in range(4)]
            for _, writer in at_work:
                writer.write(request(PHOTO))
            await asyncio.sleep(0.1)
            reader, writer = await stack.enter_async_context(connected(slow))
            for _ in range(3):
                writer.write(request(PHOTO))
                status, head, body = await answered(reader)
                assert status == 503 and b"retry-after: 1" in head and b"connection: close" not in head
            assert b"all that this node takes" in body  # the last ones were refused before the application
            assert [(await answered(each))[0] for each, _ in at_work] == [200] * 4
            writer.write(request(PHOTO))
            assert (await answered(reader))[0] == 200
            counted = await slow.get("/metrics")
        assert re.search(r'refused_total\{code="overloaded"\} [3-9]', counted.text), counted.text

    async def test_a_client_with_many_requests_leaves_a_place(self, slow: httpx.AsyncClient) -> None:
        async with AsyncExitStack() as stack:
            await exchange(slow, request(method="GET", path="/healthz"))
            for number in range(6):
                _, writer = await asyncio.open_connection(
                    slow.base_url.host, slow.base_url.port, local_addr=("127.0.0.3", 0)
                )
                stack.callback(writer.close)
                writer.write(request(PHOTO, f"x-request-id: many-{number}"))
            await asyncio.sleep(0.05)
            assert (await exchange(slow, request(PHOTO)))[0] == 200


def test_the_page_of_limits_has_every_constant_with_its_value() -> None:
    page = (ROOT / "docs" / "limits.md").read_text(encoding="utf-8")
    for name, value in vars(limits).items():
        if name.isupper() and not name.startswith("_"):
            row = next(line for line in page.splitlines() if f"`{name}`" in line)
            shown = {f"{value:,}", f"{value:g}", f"{value * 1000:g}", f"{value / 1e6:g} MB"}
            assert any(re.search(rf"(?<![0-9,]){re.escape(each)}(?!,?[0-9])", row) for each in shown), row


def test_a_machine_that_is_out_of_files_is_not_the_photos_fault(caplog: pytest.LogCaptureFixture) -> None:
    error = RequestError("image of 5 bytes cannot be decoded: Too many open files")
    error.__cause__ = OSError(24, "Too many open files")
    with caplog.at_level(logging.CRITICAL, "edge_node"):
        refusal = refusal_for(error)
    assert (refusal.status, refusal.code) == (503, "overloaded")


def test_a_body_that_would_never_fit_is_refused_at_start(tiny_bundle: Bundle) -> None:
    result = run_node("edge_node", str(tiny_bundle.directory), "--max-body-bytes", "300000000")
    check_one_clear_line(result, "EDGE_MAX_BODY_BYTES", "EDGE_MAX_BUFFERED_BYTES")


def test_more_connections_than_files_are_refused_at_start(tiny_bundle: Bundle) -> None:
    result = run_node("edge_node", str(tiny_bundle.directory), "--max-connections", "100000000")
    check_one_clear_line(result, "EDGE_MAX_CONNECTIONS", "ulimit -n")
