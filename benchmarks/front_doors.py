"""The same edge node behind other HTTP servers: uvicorn as it comes, granian, HTTP/2, and a Unix socket.

    python -m benchmarks.front_doors models/b-alexnet-cifar10-int8 --photo photo.jpg

h2load sends one photo again and again, one request at a time on each connection. Each server runs the same application
in one process, kept to one core, and they take turns. Behind the others, an edge node has none of its limits on
connections, slow senders and fair shares. It needs h2load (`apt-get install nghttp2-client`), granian (`pip install
granian`), and an otherwise idle machine.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from pydantic import Field
from rich.console import Console

from benchmarks.gallery.page import Sheet
from benchmarks.serving.cores import one_core, other_cores, pinned
from benchmarks.serving.page import machine
from benchmarks.serving.servers import Tree, free_port
from edge_node.app import edge_app
from edge_node.settings import EdgeSettings
from offramp.bundle import load_bundle
from offramp.cli.options import BundleArgument
from offramp.cli.progress import progress
from offramp.command import Command, run_command
from offramp.errors import ConfigError
from offramp.serving.asgi import ASGIApp
from offramp.serving.running import running_node

_BUNDLE = "OFFRAMP_FRONT_DOORS_BUNDLE"
_APP = "benchmarks.front_doors:application"
_START_S = 30.0
_DONE = re.compile(r"finished in [\d.]+m?s, ([\d.]+) req/s")
_COUNTS = re.compile(r"requests: (\d+) total.* (\d+) succeeded, (\d+) failed")
_COLUMNS = ("server", "requests a second", "of Offramp's", "CPU µs per request")


def _ways(port: int, sockets: Path) -> dict[str, tuple[list[str], str, bool]]:
    """Command, address and whether HTTP/2 is spoken, by name."""
    bundle = os.environ[_BUNDLE]
    offramp = ["edge_node", bundle, "--port", str(port), "--log-level", "ERROR"]
    uvicorn = ["uvicorn", "--factory", _APP, "--log-level", "error", "--no-access-log"]
    granian = ["granian", "--interface", "asgi", "--factory", _APP, "--loop", "uvloop", "--no-log"]
    tcp = ["--host", "127.0.0.1", "--port", str(port)]
    web = f"http://127.0.0.1:{port}"
    return {
        "Offramp's edge node: uvicorn behind its limits": (offramp, web, False),
        "the same, Unix socket": (
            [*offramp[:2], "--unix-socket", f"{sockets}/offramp", *offramp[4:]],
            f"unix:{sockets}/offramp",
            False,
        ),
        "uvicorn": ([*uvicorn, *tcp], web, False),
        "uvicorn, Unix socket": ([*uvicorn, "--uds", f"{sockets}/uvicorn"], f"unix:{sockets}/uvicorn", False),
        "granian": ([*granian, *tcp, "--http", "1"], web, False),
        "granian, HTTP/2": ([*granian, *tcp, "--http", "2"], web, True),
        "granian, Unix socket": (
            [*granian, "--uds", f"{sockets}/granian", "--http", "1"],
            f"unix:{sockets}/granian",
            False,
        ),
    }


@dataclass(frozen=True)
class Turn:
    """What one server did in one turn."""

    per_second: float
    cpu_us: float


class FrontDoors(Command):
    """Serve one application with several HTTP servers, in turn.

    Example: python -m benchmarks.front_doors models/b-alexnet-cifar10-int8 --photo photo.jpg
    """

    bundle: BundleArgument
    photo: Path = Field(description="photo to send")
    clients: int = Field(default=16, ge=1, description="connections, all kept alive")
    rounds: int = Field(default=5, ge=1, description="turns of each server")
    seconds: int = Field(default=3, ge=1, description="length of each turn")
    page: Path | None = Field(default=None, description="also write this Markdown file")

    def execute(self) -> None:
        """Ask every server in turn, and print the table."""
        for program, package in (("h2load", "nghttp2-client"), ("granian", "granian")):
            if shutil.which(program, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}") is None:
                raise ConfigError(f"{program} is missing; install {package}")
        os.environ[_BUNDLE] = str(self.bundle)
        found = self._measured()
        base = next(iter(found.values()))
        rows = [
            (
                name,
                f"{median(each.per_second for each in turns):.0f}",
                f"{median(a.per_second / b.per_second for a, b in zip(turns, base, strict=True)):.2f}",
                f"{median(each.cpu_us for each in turns):.0f}",
            )
            for name, turns in found.items()
        ]
        title = f"{self.bundle.name}, {self.clients} clients, {self.rounds} turns of {self.seconds} s"
        sheet = Sheet(title, _COLUMNS, rows)
        text = f"# Front doors\n\nMade by `python -m benchmarks.front_doors`.\n\n{machine()}\n\n{sheet.as_markdown()}"
        Console().print(text, highlight=False, markup=False, soft_wrap=True)
        if self.page:
            self.page.write_text(text, encoding="utf-8")

    def _measured(self) -> dict[str, list[Turn]]:
        with ExitStack() as stack:
            sockets = Path(stack.enter_context(TemporaryDirectory()))
            ways = {}
            for name in _ways(0, sockets):
                command, address, is_http2 = _ways(free_port(), sockets)[name]
                ask = self._asking(address, is_http2=is_http2)
                ways[name] = stack.enter_context(_running(command, ask)), ask
            found: dict[str, list[Turn]] = {name: [] for name in ways}
            with progress("turns", self.rounds * len(ways)) as advance:
                for number in range(self.rounds):
                    for name in sorted(ways, reverse=bool(number % 2)):
                        tree, ask = ways[name]
                        before_s = tree.cpu_s()
                        per_second = ask(self.seconds)
                        used_s = (tree.cpu_s() - before_s) / (per_second * self.seconds)
                        found[name].append(Turn(per_second, 1e6 * used_s))
                        advance(1)
        return found

    def _asking(self, address: str, *, is_http2: bool) -> Callable[[int], float]:
        """What asks for some seconds and returns requests a second."""
        path = "/v1/predict"
        is_unix = address.startswith("unix:")
        given = ["--base-uri", address, f"http://localhost{path}"] if is_unix else [f"{address}{path}"]
        command = ["h2load", "-c", str(self.clients), "-m", "1", "-t", "1", "-d", str(self.photo)]
        command += ["-H", "content-type: image/jpeg", *([] if is_http2 else ["--h1"])]

        def ask(seconds: int) -> float:
            with pinned(other_cores(one_core())):
                said = subprocess.run(
                    [*command, "-D", str(seconds), *given], check=False, capture_output=True, text=True
                ).stdout
            rate, counts = _DONE.search(said), _COUNTS.search(said)
            if not rate or not counts or not int(counts[2]) or int(counts[3]):
                raise ConfigError(f"{address}: {counts[0] if counts else said.strip()[-300:]}")
            return float(rate[1])

        return ask


@contextmanager
def _running(command: Sequence[str], ask: Callable[[int], float]) -> Iterator[Tree]:
    """Run `python -m` with a command on one core; ready on entry.

    Raises:
        ConfigError: it does not answer in time.
    """
    with pinned(one_core()):
        process = subprocess.Popen([sys.executable, "-m", *command], stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + _START_S
        while True:
            time.sleep(0.5)
            try:
                ask(1)
                break
            except ConfigError:
                if time.monotonic() > end or process.poll() is not None:
                    raise
        yield Tree(psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait()


def application() -> ASGIApp:
    """The edge node's application, for other servers; its node starts and stops with the server's lifespan."""
    settings = EdgeSettings.read(given={"bundle": os.environ[_BUNDLE], "log_level": "ERROR"})
    stack = AsyncExitStack()
    served: list[ASGIApp] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await served[0](scope, receive, send)
            return
        await receive()
        bundle = load_bundle(settings.bundle)
        blocks = (1, len(bundle.manifest.blocks))
        node = await stack.enter_async_context(running_node(settings, bundle, blocks))
        served.append(edge_app(node, settings))
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await stack.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    return app


if __name__ == "__main__":
    run_command(FrontDoors, sys.argv[1:], program="python -m benchmarks.front_doors")
