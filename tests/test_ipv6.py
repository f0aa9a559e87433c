"""IPv6 wherever there is an address to listen on or to ask."""

from __future__ import annotations

import socket
from collections.abc import Callable

import httpx
import pytest

from cloud_node.settings import CloudSettings
from edge_node.settings import EdgeSettings
from offramp.bundle import Bundle
from offramp.cli.link import SlowLink
from offramp.cli.processes import node_process
from offramp.command import Command
from offramp.errors import ConfigError
from offramp.serving.link import Link
from offramp.serving.listening import in_address, listening_socket
from offramp_dashboard.settings import DashboardSettings
from tests.conftest import FASHION_BUNDLE, SAMPLES
from tests.nodes import closed_port_address, first_photo, running_cloud, running_edge

READ: list[Callable[[str], Command]] = [
    lambda host: EdgeSettings.read(["b", "--host", host]),
    lambda host: CloudSettings.read(["b", "--host", host]),
    lambda host: DashboardSettings.read(["--host", host]),
    lambda host: SlowLink.read(["--host", host]),
]


def can_listen_on_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


pytestmark = pytest.mark.skipif(not can_listen_on_ipv6(), reason="this machine has no IPv6")


@pytest.mark.parametrize("read", READ)
def test_an_address_is_taken_with_and_without_brackets(read: Callable[[str], Command]) -> None:
    for written, meant in (("::", "::"), ("::1", "::1"), ("[::1]", "::1"), ("10.0.0.1", "10.0.0.1")):
        assert read(written).model_dump()["host"] == meant
    for wrong in ("[::1", "::1]", "[localhost]", "[]"):
        with pytest.raises(ConfigError, match="not an address; write a name, an IPv4 address"):
            read(wrong)


@pytest.mark.parametrize(
    ("host", "reached"),
    [
        ("::", {"127.0.0.1", "::1"}),
        ("::1", {"::1"}),
        ("127.0.0.1", {"127.0.0.1"}),
        ("localhost", {"127.0.0.1"}),
    ],
)
def test_only_the_double_colon_listens_on_both_versions(host: str, reached: set[str]) -> None:
    with listening_socket(host, 0) as listening:
        port = listening.getsockname()[1]
        assert {to for to in ("127.0.0.1", "::1") if connects(to, port)} == reached


def connects(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


def test_a_taken_port_is_named_as_one_would_write_it() -> None:
    with listening_socket("::1", 0) as taken, pytest.raises(ConfigError) as refused:
        listening_socket("::1", taken.getsockname()[1])
    assert f"cannot listen on [::1]:{taken_port(refused.value)}: " in str(refused.value)


def taken_port(error: ConfigError) -> str:
    return str(error).partition("]:")[2].partition(":")[0]


@pytest.mark.parametrize("host", ["::1", "[::1]", "::"])
async def test_both_nodes_and_the_metrics_listen_on_it_and_a_link_leads_there(
    tiny_bundle: Bundle, host: str
) -> None:
    port = int(closed_port_address().rpartition(":")[2])
    async with running_cloud(tiny_bundle, host=host, metrics_port=port) as cloud:
        assert cloud.startswith("[::")
        async with (
            Link(cloud, host="::1") as link,
            running_edge(tiny_bundle, upstream=in_address("::1", link.port), host=host) as edge,
        ):
            assert str(edge.base_url).startswith("http://[::")
            readiness = (await edge.get("/readyz")).json()
            assert readiness["upstream"]["up"]
        async with httpx.AsyncClient(trust_env=False) as client:
            metrics = await client.get(f"http://[::1]:{port}/metrics")
            assert "offramp_pending" in metrics.text


def test_a_node_of_several_processes_and_the_dashboard_listen_on_both_versions() -> None:
    photo = first_photo(SAMPLES, "bag")
    arguments = [str(FASHION_BUNDLE), "--port", "0", "--host", "::", "--processes", "2"]
    with node_process("edge_node", arguments, name="edge") as edge:
        assert edge.address.startswith("[::]:")
        port = edge.address.rpartition(":")[2]
        for host in ("127.0.0.1", "[::1]"):
            for _ in range(8):  # each connection goes to another process
                answer = httpx.post(f"http://{host}:{port}/v1/predict", content=photo, trust_env=False)
                assert answer.json()["label"] == "bag"
        options = ["--edge", f"http://[::1]:{port}", "--port", "0", "--host", "[::1]"]
        with node_process("offramp_dashboard", options, name="dashboard") as dashboard:
            assert dashboard.address.startswith("[::1]:")
            assert httpx.get(f"http://{dashboard.address}", trust_env=False).status_code == 200
