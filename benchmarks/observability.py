"""What metrics and tracing cost: requests per second with and without, in one run.

    python -m benchmarks.observability models/b-lenet-fashion --photos samples/fashion-mnist

Three edge nodes alone, all blocks local: one that counts nothing (its counting replaced by nothing), one as it ships,
one that also traces every request to a collector on this machine. `wrk` asks each in turn, round after round; the
medians are compared. Needs wrk, as in `apt-get install wrk`.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from threading import Thread
from typing import Annotated

import typer
from offramp.cli.errors import told_in_one_line
from rich.console import Console
from rich.table import Table

from offramp.bundle import load_bundle
from offramp.cli.processes import node_process
from offramp.cli.progress import progress
from offramp.errors import ConfigError

_SCRIPT = """
local photos = {}
for path in io.popen("find '%s' -name '*.png' -o -name '*.jpg' | sort"):lines() do
  local file = io.open(path, "rb"); photos[#photos + 1] = file:read("*a"); file:close()
end
math.randomseed(0)
request = function() return wrk.format("POST", "/v1/predict", nil, photos[math.random(#photos)]) end
"""


@told_in_one_line
def main(
    bundle: Annotated[Path, typer.Argument(help="Bundle directory.")],
    photos: Annotated[Path, typer.Option(help="Folder of photos to send, in random order.")],
    rounds: Annotated[int, typer.Option(min=1, help="How often each node is asked.")] = 9,
    seconds: Annotated[int, typer.Option(min=1, help="Of each turn.")] = 2,
    clients: Annotated[int, typer.Option(min=1, help="Connections.")] = 4,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare throughput without metrics, with them, and with tracing as well.

    Example: python -m benchmarks.observability models/b-lenet-fashion --photos samples/fashion-mnist
    """
    if shutil.which("wrk") is None:
        raise ConfigError("wrk is missing; install it, as in apt-get install wrk")
    count = len(load_bundle(bundle).manifest.blocks)
    common = [str(bundle), "--port", "0", "--blocks", f"1-{count}"]
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
        script.write_text(_SCRIPT % photos.resolve())
        found: dict[str, list[float]] = {name: [] for name in nodes}
        with progress("turns", rounds * len(nodes)) as advance:
            for number in range(rounds):
                for name in sorted(nodes, reverse=bool(number % 2)):
                    found[name].append(_per_second(running[name].address, script, seconds, clients))
                    advance(1)
    base = median(found["without metrics"])
    if as_json:
        typer.echo(
            json.dumps(
                {name: {"per_second": each, "ratio": median(each) / base} for name, each in found.items()}
            )
        )
        return
    table = Table(title=f"{rounds} turns of {seconds} s, {clients} clients")
    for column in ("edge node", "requests per second, median", "against without"):
        table.add_column(column, justify="left" if column == "edge node" else "right")
    for name, each in found.items():
        table.add_row(name, f"{median(each):.0f}", f"{median(each) / base:.3f} x")
    Console().print(table)


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
    """Takes spans and forgets them."""

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
    typer.run(main)
