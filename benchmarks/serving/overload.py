"""Ask for twice what a node can handle, for a minute, while other clients misbehave.

    python -m benchmarks.serving.overload models/b-alexnet-cifar10 --photos data/cifar10.zip

wrk finds the sustainable load, then asks for twice that over many connections, which pause between their requests. At
the same time a prober of ours asks 50 times a second and times the answers by status. Other clients send half a body
and then stall or disconnect. Afterwards wrk measures again what the node can sustain.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import httpx
import numpy as np
import psutil
from pydantic import Field
from rich.console import Console
from rich.table import Table

from benchmarks.serving.bare import read_photos
from benchmarks.serving.choosing import choose
from benchmarks.serving.load import turn, write_paced_script, write_script
from benchmarks.serving.photos import folder_of
from benchmarks.serving.servers import Server, offramp
from offramp.bundle import load_bundle
from offramp.cli.options import BundleArgument
from offramp.cli.progress import progress
from offramp.command import Command, run_command

_CLIENTS = 16  # of the sustainable load
_CONNECTIONS = 1024  # of the overload
_PROBES_PER_S = 50
_BAD_CLIENTS = 20  # of each kind, at a time


@dataclass(frozen=True)
class State:
    """The resources that the edge node holds."""

    memory_mb: float
    files: int
    threads: int


@dataclass(frozen=True)
class Overload:
    """The results; latencies in milliseconds."""

    sustainable_per_s: float
    asked_per_s: float
    answered: int
    refused: int
    other: int
    answered_p50_ms: float
    answered_p99_ms: float
    refused_p50_ms: float
    refused_p99_ms: float
    refused_with_retry_after: int
    after_per_s: float
    before: State
    peak: State
    after: State


class TooMuch(Command):
    """Ask for more than a node can handle; needs wrk and the extras train and dev.

    Example: python -m benchmarks.serving.overload models/b-alexnet-cifar10 --photos data/cifar10.zip
    """

    bundle: BundleArgument
    photos: Path = Field(
        default=Path("data/cifar10.zip"),
        description="folder of JPEG photos to send, or a zip with a folder test/",
    )
    seconds: int = Field(default=60, ge=2, description="length of the overload")
    times: float = Field(default=2.0, ge=1, description="overload, as a multiple of the sustainable load")
    as_json: bool = Field(default=False, alias="json", description="print one JSON object")

    def execute(self) -> None:
        """Start both nodes, overload them, and show the results."""
        loaded = load_bundle(self.bundle)
        point = choose(loaded, self.photos, max_drop=0.5).point
        with folder_of(self.photos) as folder, TemporaryDirectory() as scratch:
            photo = read_photos(folder, 1)[0]
            split = point.split_point
            cloud = ("--blocks", f"{split}-{len(loaded.manifest.blocks)}")
            with offramp(self.bundle, point.name, photo, edge=(), cloud=cloud) as server:
                found = _overload(server, folder, Path(scratch), photo, self.seconds, self.times)
        if self.as_json:
            print(json.dumps(asdict(found)))
        else:
            _show(found, self.times, self.seconds)


def _overload(
    server: Server, photos: Path, scratch: Path, photo: bytes, seconds: int, times: float
) -> Overload:
    steady, paced = scratch / "steady.lua", scratch / "paced.lua"
    write_script(steady, photos)
    turn(server.url, steady, clients=_CLIENTS, seconds=2)
    sustainable = turn(server.url, steady, clients=_CLIENTS, seconds=5).per_second
    before = _state(server)
    write_paced_script(paced, photos, pause_ms=1000 * _CONNECTIONS / (times * sustainable))
    command = ["wrk", "-t1", f"-c{_CONNECTIONS}", f"-d{seconds}s", "-s", str(paced), server.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as load:
        probes, peak = asyncio.run(_probe(server, photo, seconds))
        said = load.communicate()[0]
    # Give the edge time to notice that the clients with half-sent bodies have disconnected.
    time.sleep(2)
    after_per_s = turn(server.url, steady, clients=_CLIENTS, seconds=5).per_second
    by_status = {status: [p.ms for p in probes if p.status == status] for status in (200, 503)}
    return Overload(
        sustainable_per_s=sustainable,
        asked_per_s=_asked(said),
        answered=len(by_status[200]),
        refused=len(by_status[503]),
        other=len(probes) - len(by_status[200]) - len(by_status[503]),
        answered_p50_ms=_percentile(by_status[200], 50),
        answered_p99_ms=_percentile(by_status[200], 99),
        refused_p50_ms=_percentile(by_status[503], 50),
        refused_p99_ms=_percentile(by_status[503], 99),
        refused_with_retry_after=sum(p.status == 503 and p.retry_after for p in probes),
        after_per_s=after_per_s,
        before=before,
        peak=peak,
        after=_state(server),
    )


def _asked(said: str) -> float:
    return next(float(line.split()[1]) for line in said.splitlines() if line.startswith("ASKED"))


def _percentile(values: Sequence[float], share: float) -> float:
    return float(np.percentile(values, share)) if values else 0.0


def _state(server: Server) -> State:
    edge: psutil.Process = server.trees["edge"].process
    return State(edge.memory_info().rss / 1e6, edge.num_fds(), edge.num_threads())


@dataclass(frozen=True)
class _Probe:
    status: int
    ms: float
    retry_after: bool


async def _probe(server: Server, photo: bytes, seconds: int) -> tuple[list[_Probe], State]:
    found: list[_Probe] = []
    states: list[State] = []
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(timeout=30, trust_env=False, limits=limits) as client:

        async def ask() -> None:
            begun = time.perf_counter()
            try:
                answer = await client.post(server.url, content=photo)
                status, retry_after = answer.status_code, "retry-after" in answer.headers
            except httpx.TransportError:
                status, retry_after = 0, False
            found.append(_Probe(status, (time.perf_counter() - begun) * 1000, retry_after))

        with progress("seconds of overload", seconds) as advance:
            async with asyncio.TaskGroup() as asking:
                for second in range(seconds):
                    bad = asking.create_task(_misbehave(server.url, photo))
                    for _ in range(_PROBES_PER_S):
                        asking.create_task(ask())
                        await asyncio.sleep(1 / _PROBES_PER_S)
                    del bad
                    if second:
                        states.append(_state(server))
                    advance(1)
    return found, max(states, key=lambda state: state.memory_mb)


async def _misbehave(url: str, photo: bytes) -> None:
    """Send half a body from each client; half of the clients then stall, the others disconnect."""
    parts = urlsplit(url)
    head = (
        f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-length: {len(photo)}\r\n\r\n".encode()
    )
    writers = []
    for number in range(2 * _BAD_CLIENTS):
        with suppress(OSError):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port, family=socket.AF_INET)
            writer.write(head + photo[: len(photo) // 2])
            writers.append(writer)
            if number % 2:
                writer.close()
    await asyncio.sleep(5)
    for writer in writers:
        writer.close()


def _show(found: Overload, times: float, seconds: int) -> None:
    table = Table(
        "figure", "", title=f"{times:g} times the sustainable load for {seconds} s, seen by a prober"
    )
    total = found.answered + found.refused + found.other
    rows = [
        ("sustainable / asked for", f"{found.sustainable_per_s:.0f} / {found.asked_per_s:.0f} a second"),
        ("answered / 503 / neither", f"{found.answered} / {found.refused} / {found.other} of {total}"),
        ("answered: p50 / p99", f"{found.answered_p50_ms:.1f} / {found.answered_p99_ms:.1f} ms"),
        ("503: p50 / p99", f"{found.refused_p50_ms:.1f} / {found.refused_p99_ms:.1f} ms"),
        ("503 with Retry-After", f"{found.refused_with_retry_after}"),
        (
            "afterwards",
            f"{found.after_per_s:.0f} a second, {found.after_per_s / found.sustainable_per_s:.2f}×",
        ),
        *(
            (f"edge, {name}", f"{state.memory_mb:.0f} MB, {state.files} files, {state.threads} threads")
            for name, state in (("before", found.before), ("at its peak", found.peak), ("after", found.after))
        ),
    ]
    for row in rows:
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    run_command(TooMuch, sys.argv[1:], program="python -m benchmarks.serving.overload")
