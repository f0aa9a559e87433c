"""What metrics and tracing cost: requests per second with and without them, in one run.

    python -m benchmarks.observability models/b-lenet-fashion --photos samples/fashion-mnist

It runs three edge nodes, each with all blocks and no cloud: one without metrics, one as it ships, and one that also
sends a trace of every request to a collector on this machine. `wrk` asks each in turn, round after round, and the
medians are compared. It needs wrk (`apt-get install wrk`).
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from threading import Thread

from pydantic import Field
from rich.console import Console
from rich.table import Table

from offramp.bundle import load_bundle
from offramp.cli.options import BundleArgument
from offramp.cli.processes import node_process
from offramp.cli.progress import progress
from offramp.command import Command, run_command
from offramp.errors import ConfigError

_SCRIPT = """
local photos = {}
for path in io.popen("find '%s' -name '*.png' -o -name '*.jpg' | sort"):lines() do
  local file = io.open(path, "rb"); photos[#photos + 1] = file:read("*a"); file:close()
end
math.randomseed(0)
request = function() return wrk.format("POST", "/v1/predict", nil, photos[math.random(#photos)]) end
"""


class Observability(Command):
    """Compare throughput without metrics, with them, and with tracing as well.

    Example: python -m benchmarks.observability models/b-lenet-fashion --photos samples/fashion-mnist
    """

    bundle: BundleArgument
    photos: Path = Field(description="folder of photos to send, in random order")
    rounds: int = Field(default=9, ge=1, description="turns of each node")
    seconds: int = Field(default=2, ge=1, description="length of each turn")
    clients: int = Field(default=4, ge=1, description="connections")
    as_json: bool = Field(default=False, alias="json", description="print one JSON object")

    def execute(self) -> None:
        """Ask every node in turn, round after round."""
        if shutil.which("wrk") is None:
            raise ConfigError("wrk is missing; install it, for example with apt-get install wrk")
        found = self._measured()
        base = median(found["without metrics"])
        if self.as_json:
            ratios = {
                name: {"per_second": each, "ratio": median(each) / base} for name, each in found.items()
            }
            print(json.dumps(ratios))
            return
        table = Table(title=f"{self.rounds} turns of {self.seconds} s, {self.clients} clients")
        for column in ("edge node", "requests per second, median", "relative to without"):
            table.add_column(column, justify="left" if column == "edge node" else "right")
        for name, each in found.items():
            table.add_row(name, f"{median(each):.0f}", f"{median(each) / base:.3f} x")
        Console().print(table)

    def _measured(self) -> dict[str, list[float]]:
        """Requests per second of each node, turn by turn."""
        count = len(load_bundle(self.bundle).manifest.blocks)
        common = [str(self.bundle), "--port", "0", "--blocks", f"1-{count}"]
        with ExitStack() as stack:
            collector = stack.enter_context(_collector())
            nodes = {
                "without metrics": ("benchmarks.uncounted_edge", common),
                "with metrics": ("edge_node", common),
                "with metrics and tracing": ("edge_node", [*common, "--otlp-endpoint", collector]),
            }
            running = {
                name: stack.enter_context(node_process(module, arguments, name=name))
                for name, (module, arguments) in nodes.items()
            }
            script = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "photos.lua"
            script.write_text(_SCRIPT % self.photos.resolve())
            found: dict[str, list[float]] = {name: [] for name in nodes}
            with progress("turns", self.rounds * len(nodes)) as advance:
                for number in range(self.rounds):
                    for name in sorted(nodes, reverse=bool(number % 2)):
                        address = running[name].address
                        found[name].append(_per_second(address, script, self.seconds, self.clients))
                        advance(1)
        return found


def _per_second(address: str, script: Path, seconds: int, clients: int) -> float:
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "-s", str(script), f"http://{address}"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in said:
        raise ConfigError(f"the node refused requests: {said}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    assert rate, said
    return float(rate[1])


@contextmanager
def _collector() -> Iterator[str]:
    """Accept spans and discard them."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/traces"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


if __name__ == "__main__":
    run_command(Observability, sys.argv[1:], program="python -m benchmarks.observability")
