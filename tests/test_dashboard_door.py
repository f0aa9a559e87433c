"""What the dashboard's server lets in: hosts, origins, paths, bodies, and how many pages at once."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import wsproto
from wsproto.events import AcceptConnection, RejectConnection, Request

from offramp.cli.processes import NodeProcess, node_process
from tests.nodes import closed_port_address

pytest.importorskip("nicegui", reason="needs the extra 'dashboard'")


@pytest.fixture(scope="module")
def dashboard() -> Iterator[NodeProcess]:
    arguments = [
        "--port",
        "0",
        "--edge",
        f"http://{closed_port_address()}",
        "--allowed-hosts",
        "board.example",
    ]
    with node_process("offramp_dashboard", arguments, name="dashboard") as running:
        yield running


@pytest.fixture
async def client(dashboard: NodeProcess) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=f"http://{dashboard.address}", timeout=30, trust_env=False
    ) as client:
        yield client


def resident_mb(node: NodeProcess) -> float:
    status = Path(f"/proc/{node.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found
    return int(found[1]) / 1024


async def test_pages_that_nobody_looks_at_are_not_kept(
    dashboard: NodeProcess, client: httpx.AsyncClient
) -> None:
    for _ in range(50):
        assert (await client.get("/")).status_code == 200
    before = resident_mb(dashboard)
    for _ in range(100):
        assert (await client.get("/")).status_code == 200
    assert resident_mb(dashboard) - before < 15


@pytest.mark.parametrize(
    "path", ["/x", "/index.html", "/docs", "/openapi.json", "/_nicegui", "/_nicegui/client/x/upload/1"]
)
async def test_a_path_that_is_none_makes_no_page(client: httpx.AsyncClient, path: str) -> None:
    found = await client.get(path)
    assert found.status_code == 404 and len(found.content) < 100


async def test_whether_it_lives_can_be_asked_without_a_page(client: httpx.AsyncClient) -> None:
    assert (await client.get("/healthz")).json() == {"status": "alive"}


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", ""])
async def test_a_foreign_host_is_refused(client: httpx.AsyncClient, host: str) -> None:
    found = await client.get("/", headers={"host": host})
    assert found.status_code in (400, 421)


async def test_names_that_are_given_are_answered_and_no_page_can_be_put_into_a_frame(
    client: httpx.AsyncClient,
) -> None:
    for host in ("board.example", "localhost:9", "127.0.0.1", "dashboard"):
        found = await client.get("/", headers={"host": host})
        assert found.status_code == 200
        assert found.headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize(
    ("host", "origin", "taken"),
    [
        ("{own}", "http://{own}", True),
        ("{own}", "http://evil.example", False),
        ("{own}", "null", False),
        ("evil.example", "http://evil.example", False),
        ("board.example", "https://board.example", True),
    ],
)
def test_a_websocket_is_taken_from_the_own_page_only(
    dashboard: NodeProcess, host: str, origin: str, taken: bool
) -> None:
    import socket

    own = dashboard.address
    connection = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
    asked = connection.send(
        Request(
            host=host.format(own=own),
            target="/_nicegui_ws/socket.io/?EIO=4&transport=websocket",
            extra_headers=[(b"origin", origin.format(own=own).encode())],
        )
    )
    name, _, port = own.rpartition(":")
    with socket.create_connection((name, int(port)), timeout=10) as plain:
        plain.sendall(asked)
        connection.receive_data(plain.recv(65536))
    event = next(connection.events())
    assert isinstance(event, AcceptConnection if taken else RejectConnection), event


async def test_no_other_origin_is_told_that_it_may_read(client: httpx.AsyncClient) -> None:
    found = await client.get(
        "/_nicegui_ws/socket.io/",
        params={"EIO": "4", "transport": "polling"},
        headers={"origin": "http://evil.example"},
    )
    assert found.status_code == 403
    assert "access-control-allow-origin" not in found.headers
    own = await client.get(
        "/_nicegui_ws/socket.io/",
        params={"EIO": "4", "transport": "polling"},
        headers={"origin": str(client.base_url).rstrip("/")},
    )
    assert own.status_code == 200
    assert "access-control-allow-origin" not in own.headers


async def test_a_body_that_is_too_large_ends_the_request(client: httpx.AsyncClient) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(600):
            yield b"x" * 100_000

    page = (await client.get("/")).text
    found = re.search(r"client_id[^0-9a-f]+([0-9a-f-]{36})", page)
    assert found
    try:
        answer = await client.post(f"/_nicegui/client/{found[1]}/upload/1", content=endless())
    except httpx.TransportError:
        return
    assert answer.status_code >= 400
