"""What encryption and keys cost: requests per second with and without them, in one run.

    python -m benchmarks.encryption models/b-lenet-fashion --photos samples/fashion-mnist

`wrk` asks three edge nodes without a cloud, which are open, encrypted, and encrypted with API keys; and two edges that
offload every sample, to a cloud in plain text and to one with certificates on both sides. They are asked in turn, round
after round; each round gives one ratio. It needs wrk (`apt-get install wrk`) and an otherwise idle machine.
"""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from pydantic import Field
from rich.console import Console
from rich.table import Table

from benchmarks.serving.load import turn, write_script
from benchmarks.serving.servers import offload_all
from offramp.bundle import load_bundle
from offramp.cli.options import BundleArgument
from offramp.cli.processes import node_process
from offramp.cli.progress import progress
from offramp.command import Command, run_command
from offramp.serving.access.authority import Authority, write
from offramp.serving.access.keys import KeptKeys, Right, new_key

# What is compared with what.
_PAIRS = {
    "edge: TLS": "edge: open",
    "edge: TLS and keys": "edge: open",
    "edge and cloud: mTLS": "edge and cloud: open",
}


class Encryption(Command):
    """Compare throughput with and without TLS, API keys, and mTLS between tiers.

    Example: python -m benchmarks.encryption models/b-lenet-fashion --photos samples/fashion-mnist
    """

    bundle: BundleArgument
    photos: Path = Field(description="folder of photos to send, in random order")
    rounds: int = Field(default=9, ge=1, description="turns of each node")
    seconds: int = Field(default=2, ge=1, description="length of each turn")
    clients: int = Field(default=16, ge=1, description="connections, all kept alive")
    as_json: bool = Field(default=False, alias="json", description="print one JSON object")

    def execute(self) -> None:
        """Ask every node in turn, round after round."""
        found = self._measured()
        ratios = {
            name: median(one / other for one, other in zip(found[name], found[base], strict=True))
            for name, base in _PAIRS.items()
        }
        if self.as_json:
            print(json.dumps({"per_second": found, "ratios": ratios}))
            return
        table = Table(title=f"{self.rounds} turns of {self.seconds} s, {self.clients} clients")
        for column in ("nodes", "requests per second, median", "median ratio to open"):
            table.add_column(column, justify="left" if column == "nodes" else "right")
        for name, each in found.items():
            table.add_row(name, f"{median(each):.0f}", f"{ratios[name]:.3f} x" if name in ratios else "")
        Console().print(table)

    def _measured(self) -> dict[str, list[float]]:
        """Requests per second of each node, turn by turn."""
        with ExitStack() as stack:
            directory = Path(stack.enter_context(TemporaryDirectory()))
            key = _write_secrets(directory)
            script = directory / "photos.lua"
            write_script(script, self.photos)
            urls = self._started(stack, directory)
            found: dict[str, list[float]] = {name: [] for name in urls}
            with progress("turns", self.rounds * len(urls)) as advance:
                for number in range(self.rounds):
                    for name in sorted(urls, reverse=bool(number % 2)):
                        asked = turn(
                            urls[name], script, clients=self.clients, seconds=self.seconds, api_key=key
                        )
                        found[name].append(asked.per_second)
                        advance(1)
        return found

    def _started(self, stack: ExitStack, directory: Path) -> dict[str, str]:
        """The address that photos are posted to, for each way."""
        tls = ["--tls-cert", f"{directory}/node.pem", "--tls-key", f"{directory}/node.key"]
        authority = f"{directory}/ca.pem"
        own = [
            f"--upstream-{option.removeprefix('--')}" if option.startswith("--") else option for option in tls
        ]

        def started(module: str, *more: str) -> str:
            arguments = [str(self.bundle), "--port", "0", *more]
            return stack.enter_context(node_process(module, arguments, name=module)).address

        count = len(load_bundle(self.bundle).manifest.blocks)
        whole = ["--blocks", f"1-{count}"]
        addresses = {
            "edge: open": f"http://{started('edge_node', *whole)}",
            "edge: TLS": f"https://{started('edge_node', *whole, *tls)}",
            "edge: TLS and keys": f"https://{started('edge_node', *whole, *tls, '--keys', f'{directory}/keys.json')}",
        }
        ways = {
            "edge and cloud: open": ([], []),
            "edge and cloud: mTLS": (
                [*tls, "--tls-client-ca", authority],
                ["--upstream-tls-ca", authority, *own],
            ),
        }
        for name, (cloud, edge) in ways.items():
            upstream = started("cloud_node", *cloud)
            addresses[name] = f"http://{started('edge_node', '--upstream', upstream, *edge)}"
            offload_all(addresses[name])
        return {name: f"{address}/v1/predict" for name, address in addresses.items()}


def _write_secrets(directory: Path) -> str:
    """An authority, one certificate for every node, and a file of keys; returns the key."""
    authority = Authority.made(1)
    authority.keep(directory)
    certificate, private = authority.issue("node", ("127.0.0.1",), days=1)
    write(directory / "node.pem", certificate)
    write(directory / "node.key", private, secret=True)
    key, kept = new_key("camera", [Right.ASK])
    write(directory / "keys.json", KeptKeys(keys=(kept,)).model_dump_json().encode())
    return key


if __name__ == "__main__":
    run_command(Encryption, sys.argv[1:], program="python -m benchmarks.encryption")
