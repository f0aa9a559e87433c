"""Nodes as an operator runs them: real processes, started wrong, killed, and told to stop."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Self

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from offramp.bundle import Bundle
from offramp.cli.processes import NodeProcess, node_process
from tests.nodes import closed_port_address, png

Pixels = NDArray[np.uint8]


def run_node(module: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
        check=False,
    )


def check_one_clear_line(result: subprocess.CompletedProcess[str], *says: str) -> None:
    assert result.returncode == 2, result.stderr
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    for text in says:
        assert text in lines[0]


@pytest.mark.parametrize("module", ["edge_node", "cloud_node"])
class TestStartingWrong:
    def test_no_bundle_given(self, module: str) -> None:
        check_one_clear_line(run_node(module), "BUNDLE is missing", "_BUNDLE")

    def test_a_missing_bundle(self, module: str, tmp_path: Path) -> None:
        check_one_clear_line(run_node(module, str(tmp_path)), "no bundle in", str(tmp_path))

    def test_an_altered_bundle(self, module: str, tiny_bundle: Bundle, tmp_path: Path) -> None:
        shutil.copytree(tiny_bundle.directory, tmp_path / "altered")
        with (tmp_path / "altered" / "block-2.onnx").open("ab") as file:
            file.write(b"\0")
        result = run_node(module, str(tmp_path / "altered"))
        check_one_clear_line(result, "block-2.onnx was altered")

    def test_a_taken_port(self, module: str, tiny_bundle: Bundle) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            result = run_node(module, str(tiny_bundle.directory), "--port", port)
        check_one_clear_line(result, f"127.0.0.1:{port}", "choose another --port")

    def test_blocks_that_leave_samples_unanswered(self, module: str, tiny_bundle: Bundle) -> None:
        result = run_node(module, str(tiny_bundle.directory), "--blocks", "2-2")
        check_one_clear_line(result, "unanswered", "--upstream")

    def test_an_upstream_that_would_never_be_asked(self, module: str, tiny_bundle: Bundle) -> None:
        arguments = [str(tiny_bundle.directory), "--blocks", "1-3", "--upstream", "localhost:1"]
        check_one_clear_line(run_node(module, *arguments), "would never be asked")

    @pytest.mark.parametrize(
        "upstream", ["localhost", "localhost:99999999", "http://localhost:1", "a:b:c", ":1"]
    )
    def test_an_upstream_that_is_no_address(self, module: str, tiny_bundle: Bundle, upstream: str) -> None:
        arguments = [str(tiny_bundle.directory), "--upstream", upstream]
        check_one_clear_line(run_node(module, *arguments), "write HOST:PORT")

    def test_an_empty_host(self, module: str, tiny_bundle: Bundle) -> None:
        check_one_clear_line(run_node(module, str(tiny_bundle.directory), "--host", ""), "--host")

    def test_blocks_that_are_no_range(self, module: str, tiny_bundle: Bundle) -> None:
        result = run_node(module, str(tiny_bundle.directory), "--blocks", "3-2")
        check_one_clear_line(result, "--blocks", "is '3-2': not a range")

    def test_a_misspelt_variable(self, module: str, tiny_bundle: Bundle) -> None:
        prefix = "EDGE" if module == "edge_node" else "CLOUD"
        result = run_node(module, str(tiny_bundle.directory), **{f"{prefix}_PROT": "1"})
        check_one_clear_line(result, f"did you mean {prefix}_PORT?")


def test_an_edge_that_does_not_begin_with_block_1_is_refused(tiny_bundle: Bundle) -> None:
    result = run_node("edge_node", str(tiny_bundle.directory), "--blocks", "2-3")
    check_one_clear_line(result, "block 1")


def test_an_edge_refuses_to_start_beside_a_cloud_with_another_bundle(
    tiny_bundle: Bundle, exitless_bundle: Bundle
) -> None:
    with cloud(exitless_bundle) as other:
        result = run_node("edge_node", str(tiny_bundle.directory), "--port", "0", "--upstream", other.address)
    check_one_clear_line(result, tiny_bundle.manifest.bundle_id, exitless_bundle.manifest.bundle_id)


def cloud(bundle: Bundle, port: str = "0") -> AbstractContextManager[NodeProcess]:
    return node_process("cloud_node", [str(bundle.directory), "--port", port], name="cloud")


def edge(bundle: Bundle, upstream: str) -> AbstractContextManager[NodeProcess]:
    arguments = [str(bundle.directory), "--port", "0", "--upstream", upstream]
    return node_process("edge_node", arguments, name="edge")


async def test_killing_the_cloud_under_load_loses_no_request_and_the_edge_recovers(
    tiny_bundle: Bundle, tiny_pixels: Pixels
) -> None:
    port = closed_port_address().rpartition(":")[2]
    with cloud(tiny_bundle, port) as first, edge(tiny_bundle, first.address) as node:
        async with asyncio.timeout(60), Load(node.address, png(tiny_pixels[0])) as load:
            await load.until_seen(whole=200)
            first.kill()
            await load.until_seen(degraded=200)
            with cloud(tiny_bundle, port):
                back = time.monotonic()
                await load.until_seen(whole=load.seen["whole"] + 200)
                recovered_s = time.monotonic() - back
    assert load.failed == []
    assert set(load.seen) == {"whole", "degraded"}
    assert recovered_s < 5


async def test_stopping_the_cloud_politely_under_load_loses_no_request(
    tiny_bundle: Bundle, tiny_pixels: Pixels
) -> None:
    with cloud(tiny_bundle) as first, edge(tiny_bundle, first.address) as node:
        async with asyncio.timeout(60), Load(node.address, png(tiny_pixels[0])) as load:
            await load.until_seen(whole=200)
            first.terminate()
            await load.until_seen(degraded=50)
    assert load.failed == []


async def test_an_edge_told_to_stop_finishes_what_it_accepted(
    tiny_bundle: Bundle, tiny_pixels: Pixels
) -> None:
    arguments = [str(tiny_bundle.directory), "--port", "0", "--blocks", "1-3"]
    logged: list[str] = []
    with node_process("edge_node", arguments, name="edge", show=logged.append) as node:
        async with asyncio.timeout(30), Load(node.address, png(tiny_pixels[0])) as load:
            await load.until_seen(whole=100)
            node.terminate()
            await asyncio.to_thread(node.wait)
        assert node.wait() == 0
    answered = sum("event=answered" in line for line in logged)
    assert load.seen.total() == answered, "what the node worked on has reached its client"
    assert all(isinstance(error, httpx.TransportError) for error in load.failed)


class Load:
    """Sixteen clients that ask without pause; each request has θ = 1 at the edge, so all go to the cloud."""

    def __init__(self, address: str, image: bytes) -> None:
        self.seen: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()  # of what was degraded
        self.failed: list[Exception] = []
        self._address = f"http://{address}"
        self._image = image
        self._stop = False

    async def __aenter__(self) -> Self:
        limits = httpx.Limits(max_connections=16)
        self._client = httpx.AsyncClient(base_url=self._address, timeout=20, limits=limits, trust_env=False)
        thetas = (await self._client.get("/v1/policy")).json()["thetas"]
        await self._client.put("/v1/policy", json={"thetas": [1.0] * len(thetas)})
        self._clients = [asyncio.create_task(self._ask()) for _ in range(16)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop = True
        await asyncio.gather(*self._clients)
        await self._client.aclose()

    async def until_seen(self, **counts: int) -> None:
        """Wait until so many answers of a kind have come."""
        while any(self.seen[kind] < count for kind, count in counts.items()):
            await asyncio.sleep(0.01)

    async def _ask(self) -> None:
        while not self._stop:
            try:
                response = await self._client.post("/v1/predict", content=self._image)
                response.raise_for_status()
            except Exception as error:  # noqa: BLE001 - the test looks at every kind of failure
                self.failed.append(error)
                return
            answer = response.json()
            self.seen["degraded" if answer["degraded"] else "whole"] += 1
            if answer["degraded"]:
                self.reasons[answer["degraded_reason"]] += 1
