"""An edge node of several processes: one port, one policy, one set of figures; killed, restarted, told to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from edge_node.server import LISTENERS
from edge_node.settings import EdgeSettings
from offramp.bundle import Bundle
from offramp.cli.processes import NodeProcess, node_process
from tests.nodes import png
from tests.test_processes import check_one_clear_line, cloud, run_node

PHOTO = png(np.full((8, 8, 3), 128, np.uint8))


@pytest.fixture
def node(tiny_bundle: Bundle) -> Iterator[NodeProcess]:
    arguments = [str(tiny_bundle.directory), "--port", "0", "--processes", "2"]
    with node_process("edge_node", arguments, name="edge") as running:
        until(lambda: len(children(running.pid)) == 2)
        yield running


def children(pid: int) -> list[int]:
    """The serving processes below a node; Python's own helper process left out."""
    below = [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [each for each in below if b"spawn_main" in Path(f"/proc/{each}/cmdline").read_bytes()]


def until(holds: Callable[[], object], *, within_s: float = 20.0) -> None:
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end, "it never came to hold"
        time.sleep(0.05)


def ask(node: NodeProcess, method: str, path: str, **given: object) -> httpx.Response:
    # A connection of its own each time, so that either process may take it.
    return httpx.request(method, f"http://{node.address}{path}", timeout=20, trust_env=False, **given)  # type: ignore[arg-type]


def exits(node: NodeProcess, count: int) -> set[int]:
    return {ask(node, "POST", "/v1/predict", content=PHOTO).json()["exit"]["number"] for _ in range(count)}


def counted(node: NodeProcess, name: str) -> float:
    families = text_string_to_metric_families(ask(node, "GET", "/metrics").text)
    return sum(each.value for family in families for each in family.samples if each.name == name)


def until_counted(node: NodeProcess, samples: int) -> None:
    # A process counts an answer once it is on its way.
    until(lambda: counted(node, "offramp_samples_total") == samples)


def test_a_change_of_theta_holds_in_every_process_from_the_next_request_on(node: NodeProcess) -> None:
    for thetas, exit in (([0.0, 0.0], 1), ([1.0, 0.0], 2), ([1.0, 1.0], 3)):
        assert ask(node, "PUT", "/v1/policy", json={"thetas": thetas}).status_code == 200
        assert exits(node, 12) == {exit}
        assert ask(node, "GET", "/v1/policy").json()["thetas"] == thetas


def test_the_figures_are_those_of_all_processes(node: NodeProcess) -> None:
    exits(node, 15)
    until_counted(node, 15)
    assert counted(node, "offramp_pending") == 0
    assert counted(node, "offramp_bundle_info") == 1


def test_a_killed_process_is_replaced_and_keeps_the_policy_and_the_figures(node: NodeProcess) -> None:
    ask(node, "PUT", "/v1/policy", json={"thetas": [1.0, 1.0]})
    exits(node, 10)
    until_counted(node, 10)
    first = children(node.pid)
    for pid in first:
        os.kill(pid, signal.SIGKILL)
    until(lambda: len(children(node.pid)) == 2 and not set(first) & set(children(node.pid)))
    assert exits(node, 10) == {3}
    until_counted(node, 20)
    # What a dead process said of itself no longer counts.
    assert counted(node, "offramp_pending") == 0


async def test_killing_one_of_two_processes_under_load_fails_only_what_it_had_taken(
    node: NodeProcess,
) -> None:
    found: list[int] = []

    async def client() -> None:
        async with httpx.AsyncClient(base_url=f"http://{node.address}", timeout=20, trust_env=False) as http:
            for _ in range(60):
                try:
                    found.append((await http.post("/v1/predict", content=PHOTO)).status_code)
                except httpx.TransportError:
                    found.append(0)

    clients = [asyncio.create_task(client()) for _ in range(8)]
    await asyncio.sleep(0.2)
    os.kill(children(node.pid)[0], signal.SIGKILL)
    await asyncio.gather(*clients)
    # At most one request of each connection was with the process that died.
    assert found.count(0) <= 8 and found.count(200) == len(found) - found.count(0) == 480 - found.count(0)


def test_told_to_stop_it_leaves_no_process_behind(tiny_bundle: Bundle) -> None:
    arguments = [str(tiny_bundle.directory), "--port", "0", "--processes", "2"]
    with node_process("edge_node", arguments, name="edge") as running:
        until(lambda: len(children(running.pid)) == 2)
        serving = children(running.pid)
        running.terminate()
        assert running.wait() == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in serving)


def test_killed_itself_it_leaves_no_process_behind(tiny_bundle: Bundle) -> None:
    arguments = [str(tiny_bundle.directory), "--port", "0", "--processes", "2"]
    with node_process("edge_node", arguments, name="edge") as running:
        until(lambda: len(children(running.pid)) == 2)
        serving = children(running.pid)
        running.kill()
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in serving))


def test_a_process_that_cannot_start_ends_the_node_with_its_reason(
    tiny_bundle: Bundle, exitless_bundle: Bundle
) -> None:
    with cloud(exitless_bundle) as other:
        arguments = [str(tiny_bundle.directory), "--port", "0", "--upstream", other.address]
        result = run_node("edge_node", *arguments, "--processes", "2")
    assert result.returncode == 2
    assert "did not start" in result.stderr.splitlines()[-1]
    assert tiny_bundle.manifest.bundle_id in result.stderr and "Traceback" not in result.stderr


def test_no_processes_at_all_are_refused(tiny_bundle: Bundle) -> None:
    result = run_node("edge_node", str(tiny_bundle.directory), "--processes", "0")
    check_one_clear_line(result, "--processes", "greater than or equal to 1")


def test_what_the_whole_node_may_use_is_shared_out(tmp_path: Path) -> None:
    whole = EdgeSettings(bundle=tmp_path, port=0, processes=4, workers=8, max_pending=10)
    part = whole.share()
    assert (part.workers, part.max_pending, part.max_buffered_bytes) == (2, 2, 64_000_000)
    many = EdgeSettings(bundle=tmp_path, port=0, processes=64).share()
    assert many.max_buffered_bytes == many.max_body_bytes, "each has room for the largest body"


def test_connections_are_dealt_out_to_all_processes(node: NodeProcess) -> None:
    host, _, port = node.address.rpartition(":")
    # The common socket, and some of its own once it can answer.
    until(lambda: all(connections(pid, psutil.CONN_LISTEN) == LISTENERS for pid in children(node.pid)))
    with ExitStack() as stack:
        # None is asked anything: a process that is idle takes what it can get.
        for _ in range(40):
            stack.enter_context(socket.create_connection((host, int(port)), timeout=20))
        until(lambda: sum(connections(pid, psutil.CONN_ESTABLISHED) for pid in children(node.pid)) == 40)
        taken = [connections(pid, psutil.CONN_ESTABLISHED) for pid in children(node.pid)]
    assert min(taken) >= 5, taken


def connections(pid: int, status: str) -> int:
    return sum(each.status == status for each in psutil.Process(pid).net_connections("tcp"))


def test_a_port_that_another_node_of_several_processes_has_is_refused(
    node: NodeProcess, tiny_bundle: Bundle
) -> None:
    port = node.address.rpartition(":")[2]
    for processes in ("1", "2"):
        arguments = [str(tiny_bundle.directory), "--port", port, "--processes", processes]
        check_one_clear_line(run_node("edge_node", *arguments), f"cannot listen on 127.0.0.1:{port}")
