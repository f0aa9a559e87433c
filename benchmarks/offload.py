"""What a call between tiers costs in processor time, both sides in sum; and what it did in an older version.

    python -m benchmarks.offload models/b-alexnet-cifar10-int8 --photos samples/grocery

One edge node runs all blocks itself. Another runs those of its tier, and offloads every sample to a cloud node: no exit
is confident enough, and each block is run once, so both ways do the same work. What the second way uses more is what
the call costs: encoding, gRPC, checking and decoding on both sides. `wrk` asks them in turn, round after round, in both
versions if two are given. It needs wrk (`apt-get install wrk`) and an otherwise idle machine.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Self

import psutil
from pydantic import Field, model_validator
from rich.console import Console
from rich.table import Table

from benchmarks.checkouts import Checkout
from benchmarks.serving.load import turn, write_script
from benchmarks.serving.servers import Tree, offload_all
from offramp.bundle import load_bundle
from offramp.cli.options import BundleArgument
from offramp.cli.processes import NodeProcess
from offramp.cli.progress import progress
from offramp.command import Command, run_command

_WARM_UP_S = 1
_OLD = "old version"
Microseconds = dict[str, float]  # of processor time for a request, by node


class Offload(Command):
    """Measure the processor time of a call between tiers.

    Example: python -m benchmarks.offload models/b-alexnet-cifar10-int8 --photos samples/grocery
    """

    bundle: BundleArgument
    photos: Path = Field(description="folder of photos to send, in random order")
    old: Path | None = Field(default=None, description="checkout of another version, to compare with")
    old_python: Path | None = Field(
        default=None, description="interpreter that has the other version installed"
    )
    old_bundle: Path | None = Field(default=None, description="bundle that it serves (default: the same one)")
    rounds: int = Field(default=5, ge=1, description="turns of each way")
    seconds: int = Field(default=2, ge=1, description="length of each turn")
    clients: tuple[int, ...] = Field(default=(1, 16), description="connections, all kept alive")
    as_json: bool = Field(default=False, alias="json", description="print one JSON object")

    @model_validator(mode="after")
    def _old_with_its_python(self) -> Self:
        if (self.old is None) != (self.old_python is None):
            raise ValueError("--old and --old-python go together; give both or neither")
        return self

    def execute(self) -> None:
        """Ask every way of every version in turn, round after round."""
        versions = {"this version": Checkout()}
        if self.old and self.old_python:
            versions = {_OLD: Checkout(self.old, self.old_python), **versions}
        for version in versions.values():
            version.check()
        found = {clients: self._measured(versions, clients) for clients in self.clients}
        if self.as_json:
            print(json.dumps(found))
        else:
            Console().print(self._table(found))

    def _measured(self, versions: Mapping[str, Checkout], clients: int) -> dict[str, Microseconds]:
        """Medians of all rounds, by version."""
        rounds: dict[str, list[Microseconds]] = {name: [] for name in versions}
        manifest = load_bundle(self.bundle).manifest
        deeper = f"{manifest.operating_point.split_point}-{len(manifest.blocks)}"
        bundles = dict.fromkeys(versions, self.bundle) | {_OLD: self.old_bundle or self.bundle}
        with ExitStack() as stack:
            script = Path(stack.enter_context(TemporaryDirectory())) / "photos.lua"
            write_script(script, self.photos)
            ways = {
                name: [
                    stack.enter_context(
                        checkout.nodes(bundles[name], with_cloud=with_cloud, cloud_blocks=deeper)
                    )
                    for with_cloud in (False, True)
                ]
                for name, checkout in versions.items()
            }
            for nodes in (each for pair in ways.values() for each in pair):
                offload_all(f"http://{nodes['edge'].address}")
                _used(nodes, script, clients, _WARM_UP_S)
            with progress(f"turns, {clients} clients", 2 * len(versions) * self.rounds) as advance:
                for number in range(self.rounds):
                    for name in sorted(ways, reverse=bool(number % 2)):
                        alone, both = (_used(nodes, script, clients, self.seconds) for nodes in ways[name])
                        advance(2)
                        rounds[name].append(
                            {
                                "edge alone": alone["edge"],
                                **both,
                                "call": both["edge"] + both["cloud"] - alone["edge"],
                                "latency": both["p50"] - alone["p50"],
                            }
                        )
        return {
            name: {part: median(each[part] for each in seen) for part in seen[0]}
            for name, seen in rounds.items()
        }

    def _table(self, found: Mapping[int, Mapping[str, Microseconds]]) -> Table:
        table = Table(
            title=f"µs of processor time per request, median of {self.rounds} turns of {self.seconds} s; every sample "
            "is offloaded"
        )
        columns = {
            "all blocks on the edge": "edge alone",
            "edge": "edge",
            "cloud": "cloud",
            "the call": "call",
            "µs longer, median": "latency",
        }
        for column in ("clients", "nodes", *columns, "call to old"):
            table.add_column(column, justify="left" if column == "nodes" else "right")
        for clients, versions in found.items():
            first = next(iter(versions.values()))["call"]
            for name, parts in versions.items():
                ratio = "" if parts["call"] == first else f"{parts['call'] / first:.2f} x"
                table.add_row(str(clients), name, *(f"{parts[part]:.0f}" for part in columns.values()), ratio)
        return table


def _used(nodes: Mapping[str, NodeProcess], script: Path, clients: int, seconds: int) -> Microseconds:
    """Processor time of each node for a request, and the median latency, in microseconds."""
    trees = {name: Tree(psutil.Process(node.pid)) for name, node in nodes.items()}
    before = {name: tree.cpu_s() for name, tree in trees.items()}
    asked = turn(f"http://{nodes['edge'].address}/v1/predict", script, clients=clients, seconds=seconds)
    used = {name: (tree.cpu_s() - before[name]) / asked.requests * 1e6 for name, tree in trees.items()}
    return {**used, "p50": asked.p50_ms * 1000}


if __name__ == "__main__":
    run_command(Offload, sys.argv[1:], program="python -m benchmarks.offload")
