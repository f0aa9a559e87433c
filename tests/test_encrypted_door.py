"""The limits of the front door before a connection is encrypted, and behind it."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offramp.bundle import Bundle
from offramp.cli.processes import node_process
from tests.commands import offramp
from tests.conftest import FASHION_BUNDLE
from tests.nodes import png, predict, running_edge
from tests.raw_http import answered, connected, request

PHOTO = png(np.full((8, 8, 3), 128, np.uint8))


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The settings of an edge that speaks TLS, and a client's trust in it."""
    directory: Path = tmp_path_factory.mktemp("certs")
    offramp("certs", str(directory), "--node", "edge")
    return {
        "tls_cert": directory / "edge.pem",
        "tls_key": directory / "edge.key",
        "trusting": ssl.create_default_context(cafile=str(directory / "ca.pem")),
    }


async def test_connections_without_a_handshake_do_not_keep_others_out(
    tiny_bundle: Bundle, encrypted: dict[str, Any]
) -> None:
    async with (
        running_edge(tiny_bundle, blocks="1-3", max_connections=20, **encrypted) as client,
        AsyncExitStack() as stack,
    ):
        silent = [await stack.enter_async_context(connected(client)) for _ in range(60)]
        assert await predict(client, PHOTO)
        async with asyncio.timeout(5):
            assert await silent[0][0].read() == b"", "the oldest made room"


async def test_a_handshake_that_does_not_come_is_ended(
    tiny_bundle: Bundle, encrypted: dict[str, Any]
) -> None:
    async with (
        running_edge(tiny_bundle, blocks="1-3", head_timeout_s=0.3, **encrypted) as client,
        connected(client) as (reader, _),
        asyncio.timeout(5),
    ):
        assert await reader.read() == b""


async def test_work_ends_when_an_encrypted_client_leaves(
    tiny_bundle: Bundle, encrypted: dict[str, Any]
) -> None:
    async with running_edge(tiny_bundle, blocks="1-3", batch_window_ms=500, **encrypted) as client:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", client.base_url.port, ssl=encrypted["trusting"]
        )
        writer.write(request(PHOTO) + request(PHOTO))
        assert (await answered(reader))[0] == 200
        await asyncio.sleep(0.05)
        assert "offramp_pending 1.0" in (await client.get("/metrics")).text
        writer.close()
        await asyncio.sleep(0.1)
        assert "offramp_pending 0.0" in (await client.get("/metrics")).text


def test_every_handshake_of_many_comes_to_its_end(tmp_path: Path) -> None:
    offramp("certs", str(tmp_path), "--node", "edge")
    files = ["--tls-cert", str(tmp_path / "edge.pem"), "--tls-key", str(tmp_path / "edge.key")]
    trusted = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    arguments = [str(FASHION_BUNDLE), "--port", "0", "--blocks", "1-2", *files]
    with node_process("edge_node", arguments, name="edge") as edge:
        host, _, port = edge.address.rpartition(":")
        for _ in range(60):
            with (
                socket.create_connection((host, int(port)), timeout=5) as plain,
                trusted.wrap_socket(plain, server_hostname="127.0.0.1") as encrypted,
            ):
                encrypted.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert encrypted.recv(12) == b"HTTP/1.1 200"
