"""Calls per second of one cloud node and of several: round-robin, behind Envoy, under Ray Serve.

    python -m benchmarks.scale models/b-lenet-fashion --photos samples/fashion-mnist --ray /path/to/ray/bin/python

Each turn starts one way and stops it afterwards, so that nothing else runs. The ways take turns, round after round, and
the medians are compared. Clients, proxies and replicas share this machine's cores. When all cores are busy, a second
replica gains nothing, and a proxy costs the time it computes. So the table shows the CPU time of each part as well.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import psutil
from pydantic import Field
from rich.console import Console
from rich.table import Table

from benchmarks.scale.client import Turn
from benchmarks.scale.ray_serve import has_ray
from benchmarks.scale.ways import Way, ways_for
from offramp.bundle import load_bundle
from offramp.cli.options import BundleArgument
from offramp.cli.progress import progress
from offramp.command import Command, run_command
from offramp.errors import ConfigError

_PARTS = ("replicas", "proxy", "clients")


@dataclass
class Found:
    """The results of one way: calls per second, and CPU microseconds per call of each part."""

    per_second: list[float] = field(default_factory=list)
    cpu_us_per_call: dict[str, list[float]] = field(default_factory=dict)


class Scale(Command):
    """Compare one replica of the cloud node with several, and ways to spread calls over them.

    Example: python -m benchmarks.scale models/b-lenet-fashion --photos samples/fashion-mnist
    """

    bundle: BundleArgument
    photos: Path = Field(description="folder of photos whose features are sent")
    replicas: int = Field(default=2, ge=2, description="number of replicas, where there are several")
    rounds: int = Field(default=5, ge=1, description="turns of each way")
    seconds: float = Field(default=5.0, ge=0.1, description="length of each turn")
    clients: int = Field(default=1, ge=1, description="client processes")
    channels: int = Field(default=4, ge=1, description="connections of each client")
    in_flight: int = Field(default=4, ge=1, description="calls in flight on each connection")
    ray: Path | None = Field(default=None, description="Python interpreter with Ray Serve, if not this one")
    as_json: bool = Field(default=False, alias="json", description="print one JSON object")

    def execute(self) -> None:
        """Give every way its turns, and show the medians."""
        load_bundle(self.bundle)
        python = str(self.ray) if self.ray else sys.executable
        if self.ray and not has_ray(python):
            raise ConfigError(f"{self.ray} cannot import ray.serve; pip install -e '.[ray]' there")
        # Each replica has one worker, as in deploy/ray/offramp.yaml.
        os.environ.setdefault("CLOUD_WORKERS", "1")
        ways = ways_for(self.bundle, replicas=self.replicas, ray_python=python if has_ray(python) else None)
        with _clients(self.bundle, self.photos, self.clients, self.channels, self.in_flight) as asking:
            found = _measure(ways, asking, self.rounds, self.seconds)
        asked = f"{self.clients} × {self.channels} connections × {self.in_flight} calls"
        shape = f"{self.rounds} turns of {self.seconds:g} s, {asked}, {os.cpu_count()} cores"
        if self.as_json:
            by_way = {name: asdict(each) for name, each in found.items()}
            print(json.dumps({"shape": shape, "ways": by_way}))
        else:
            Console().print(_table(found, shape))


def _measure(
    ways: Mapping[str, Way], asking: Sequence[subprocess.Popen[str]], rounds: int, seconds: float
) -> dict[str, Found]:
    found = {name: Found() for name in ways}
    with progress("turns", rounds * len(ways)) as advance:
        for number in range(rounds):
            for name in sorted(ways, reverse=bool(number % 2)):
                with ways[name]() as running:
                    before = {**running.cpu_s(), "clients": _used_s(asking)}
                    turn = _take_turn(asking, running.target, seconds)
                    after = {**running.cpu_s(), "clients": _used_s(asking)}
                found[name].per_second.append(turn.calls / seconds)
                for part, used in after.items():
                    spent_us = (used - before[part]) * 1e6 / turn.calls_in_all
                    found[name].cpu_us_per_call.setdefault(part, []).append(spent_us)
                advance(1)
    return found


def _take_turn(asking: Sequence[subprocess.Popen[str]], target: str, seconds: float) -> Turn:
    for client in asking:
        assert client.stdin is not None
        client.stdin.write(json.dumps({"target": target, "seconds": seconds}) + "\n")
        client.stdin.flush()
    turns = [Turn(**json.loads(_line(client))) for client in asking]
    if wrong := sum(turn.wrong for turn in turns):
        raise ConfigError(f"{wrong} calls to {target} failed or got a wrong answer; see above")
    return Turn(sum(turn.calls for turn in turns), sum(turn.calls_in_all for turn in turns))


@contextmanager
def _clients(
    bundle: Path, photos: Path, count: int, channels: int, in_flight: int
) -> Iterator[list[subprocess.Popen[str]]]:
    command = [sys.executable, "-m", "offramp.serving.child", "benchmarks.scale.client", str(bundle)]
    command += ["--photos", str(photos), "--channels", str(channels), "--in-flight", str(in_flight)]
    with ExitStack() as stack:
        started = []
        for _ in range(count):
            client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            started.append(stack.enter_context(client))  # closing its input ends it
        for client in started:
            _line(client)  # once it is ready, it prints how many calls it has to send
        yield started


def _line(client: subprocess.Popen[str]) -> str:
    assert client.stdout is not None
    if line := client.stdout.readline():
        return line
    raise ConfigError("a client ended; its output is above")


def _used_s(processes: Sequence[subprocess.Popen[str]]) -> float:
    times = [psutil.Process(process.pid).cpu_times() for process in processes]
    return float(sum(each.user + each.system for each in times))


def _table(found: Mapping[str, Found], shape: str) -> Table:
    base = median(found["1 replica"].per_second)
    table = Table(
        title=shape,
        caption="CPU µs are per call and part; Ray's proxy is all of Ray except its replicas.\n"
        "All parts share this machine's cores; with too few cores, more replicas gain nothing.",
    )
    table.add_column("cloud tier")
    for column in ("calls/s", "relative to 1", *(f"{part} µs" for part in _PARTS)):
        table.add_column(column, justify="right")
    for name, each in found.items():
        rate = median(each.per_second)
        spent = [each.cpu_us_per_call.get(part) for part in _PARTS]
        table.add_row(
            name,
            f"{rate:.0f}",
            f"{rate / base:.2f} x",
            *(f"{median(used):.0f}" if used else "-" for used in spent),
        )
    return table


if __name__ == "__main__":
    run_command(Scale, sys.argv[1:], program="python -m benchmarks.scale")
