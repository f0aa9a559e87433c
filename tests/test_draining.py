"""An edge node that is told to stop: not ready first, then no new connections, and not one request is lost."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time

import httpx
import numpy as np
import pytest

from offramp.bundle import Bundle
from offramp.cli.processes import NodeProcess, node_process
from tests.nodes import png
from tests.raw_http import answered, connected, request

PHOTO = png(np.full((8, 8, 3), 128, np.uint8))
ASK = request(PHOTO)


class KeepAlive:
    """Clients that keep their connections, and go to the other node when one says that it closes or does not listen."""

    def __init__(self, *nodes: NodeProcess) -> None:
        self._addresses = [node.address.rpartition(":") for node in nodes]
        self.answers = 0
        self.lost: list[Exception] = []
        self._stop = False

    async def run(self, count: int) -> None:
        await asyncio.gather(*(self._client(number) for number in range(count)))

    def stop(self) -> None:
        self._stop = True

    async def _client(self, at: int) -> None:
        while not self._stop:
            host, _, port = self._addresses[at % len(self._addresses)]
            at += 1
            try:
                reader, writer = await asyncio.open_connection(host, int(port))
            except ConnectionRefusedError:
                continue
            try:
                while not self._stop:
                    writer.write(ASK)
                    status, head, _ = await answered(reader)
                    assert status == 200
                    self.answers += 1
                    if b"connection: close" in head:
                        break
            except (OSError, EOFError, AssertionError) as error:
                self.lost.append(error)
            finally:
                writer.close()

    async def until(self, answers: int) -> None:
        async with asyncio.timeout(30):
            while self.answers < answers:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("processes", ["1", "2"])
async def test_no_request_is_lost_while_one_of_two_edges_is_told_to_stop(
    tiny_bundle: Bundle, processes: str
) -> None:
    arguments = [str(tiny_bundle.directory), "--port", "0", "--blocks", "1-3"]
    with (
        node_process("edge_node", [*arguments, "--processes", processes], name="first") as first,
        node_process("edge_node", arguments, name="second") as second,
    ):
        clients = KeepAlive(first, second)
        running = asyncio.create_task(clients.run(64))
        await clients.until(300)
        first.terminate()
        await asyncio.to_thread(first.wait)
        await clients.until(clients.answers + 100)
        clients.stop()
        await running
    assert clients.lost == []


async def test_a_stopping_edge_says_so_and_still_answers(tiny_bundle: Bundle) -> None:
    arguments = [str(tiny_bundle.directory), "--port", "0", "--drain-s", "1"]
    with node_process("edge_node", arguments, name="edge") as node:
        async with httpx.AsyncClient(base_url=f"http://{node.address}", trust_env=False) as client:
            assert (await client.get("/readyz")).status_code == 200
            async with connected(client) as (reader, writer):
                node.terminate()
                async with asyncio.timeout(5):
                    while (await client.get("/readyz")).status_code == 200:
                        await asyncio.sleep(0.02)
                assert (await client.get("/readyz")).json()["ready"] is False
                response = await client.post("/v1/predict", content=PHOTO)
                assert (response.status_code, response.headers["connection"]) == (200, "close")
                writer.write(ASK)
                status, head, _ = await answered(reader)
                assert status == 200 and b"connection: close" in head
        assert await asyncio.to_thread(node.wait) == 0


_STUCK = """
import sys, threading
from edge_node.__main__ import Edge
from offramp.command import run_command
from offramp.engine.tier import Tier
run = Tier.run
def stuck(*given, **named):
    if threading.current_thread() is threading.main_thread():  # what is measured at start
        return run(*given, **named)
    threading.Event().wait()
Tier.run = stuck
run_command(Edge, sys.argv[1:], program="edge")
"""


def test_a_worker_that_is_stuck_does_not_keep_a_node_from_ending(tiny_bundle: Bundle) -> None:
    arguments = ["--port", "0", "--blocks", "1-3", "--grace-s", "0.2", "--drain-s", "0"]
    with subprocess.Popen(
        [sys.executable, "-P", "-c", _STUCK, str(tiny_bundle.directory), *arguments],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        address = next(line for line in process.stderr if "event=ready" in line).partition("address=")[2]
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"http://{address.split()[0]}/v1/predict", content=PHOTO, timeout=0.5, trust_env=False)
        process.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        process.wait(10)
        assert time.monotonic() - begun < 5


_TOLD_TOO_SOON = """
import os, signal, sys
from {package} import server
from {package}.__main__ import {command}
from offramp.command import run_command
made = server.{part}
def told(*given, **named):
    os.kill(os.getpid(), signal.SIGTERM)
    return made(*given, **named)
server.{part} = told
run_command({command}, sys.argv[1:], program="{package}")
"""


@pytest.mark.parametrize(
    ("package", "command", "part"),
    [("edge_node", "Edge", "http_server"), ("cloud_node", "Cloud", "CloudServer")],
)
def test_a_node_that_is_told_to_stop_before_it_answers_ends(
    tiny_bundle: Bundle, package: str, command: str, part: str
) -> None:
    program = _TOLD_TOO_SOON.format(package=package, command=command, part=part)
    asked = [sys.executable, "-P", "-c", program, str(tiny_bundle.directory), "--port", "0"]
    assert subprocess.run(asked, timeout=30).returncode == 128 + signal.SIGTERM
