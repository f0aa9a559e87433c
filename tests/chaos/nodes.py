"""Nodes as real processes that can be paused, killed, replaced and measured; their log goes to a file."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil

from tests.chaos.confined import Confinement

ROOT = Path(__file__).parent.parent.parent
BUNDLE = ROOT / "models" / "b-alexnet-cifar10"
_START_S, _STOP_S = 40.0, 15.0
_READY = re.compile(r"event=ready .*\baddress=(\S+)")


class Node:
    """One node with all its processes."""

    def __init__(self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        """Start it; its log is appended to `log`."""
        self.name = name
        self._log = log
        self._skip = log.stat().st_size if log.exists() else 0
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env={**os.environ, **environment}
            )

    @property
    def log(self) -> str:
        """What it has logged."""
        with self._log.open("rb") as file:
            file.seek(self._skip)
            return file.read().decode(errors="replace")

    @property
    def is_ready(self) -> bool:
        """Whether it has said where it listens."""
        return _READY.search(self.log) is not None

    @property
    def address(self) -> str:
        """HOST:PORT, as it said itself; waits until it does.

        Raises:
            RuntimeError: it ended, or said nothing in time.
        """
        end = time.monotonic() + _START_S
        while time.monotonic() < end and self.process.poll() is None:
            if found := _READY.search(self.log):
                return found[1]
            time.sleep(0.02)
        raise RuntimeError(f"the {self.name} node did not start: {self.log.strip()[-300:]}")

    @property
    def url(self) -> str:
        """Where it answers HTTP."""
        return f"http://{self.address}"

    async def settled(self, within_s: float = _START_S) -> None:
        """Wait until it is ready, has ended, or the time is over."""
        end = time.monotonic() + within_s
        while not self.is_ready and self.process.poll() is None and time.monotonic() < end:
            await asyncio.sleep(0.05)

    def processes(self) -> list[psutil.Process]:
        """It and everything below it; empty once it has ended."""
        try:
            own = psutil.Process(self.process.pid)
            return [own, *own.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def pause(self) -> None:
        """Stop it from running (SIGSTOP); its connections stay open."""
        for each in self.processes():
            each.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it run again."""
        for each in self.processes():
            each.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        """Ask it to finish and leave."""
        self.process.terminate()

    def wait(self, seconds: float) -> float | None:
        """Seconds until it had ended; None if it has not."""
        started = time.monotonic()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        return time.monotonic() - started

    def end(self) -> None:
        """Have it end, politely at first; nothing below it stays."""
        everything = self.processes()
        self.go_on()
        self.terminate()
        if self.wait(_STOP_S) is None:
            self.process.kill()
            self.process.wait()
        for each in everything:
            with suppress(psutil.NoSuchProcess):
                each.kill()


@contextmanager
def node(
    module: str,
    arguments: Sequence[str],
    log: Path,
    *,
    environment: Mapping[str, str] | None = None,
    files: int | None = None,
    group: Confinement | None = None,
) -> Iterator[Node]:
    """Run `python -m module`, with at most `files` open files, in a control group, if they are given; ended on exit."""
    # -P: a folder in the current directory must not be imported instead of one of our packages.
    command = [sys.executable, "-P", "-m", "offramp.serving.child", module, *arguments]
    if files is not None:
        command = ["prlimit", f"--nofile={files}:{files}", *command]
    if group is not None:
        command = ["sh", "-c", f'{group.enter}; exec "$@"', "sh", *command]
    started = Node(
        module.removesuffix("_node"), command, log, {"OMP_NUM_THREADS": "1", **(environment or {})}
    )
    try:
        yield started
    finally:
        started.end()


def free_port() -> int:
    """A port that nothing listens on at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def everything_to_the_cloud(edge: Node) -> None:
    """Set θ to 1, so that no exit of the edge answers."""
    with httpx.Client(base_url=edge.url, timeout=20, trust_env=False) as client:
        thetas = client.get("/v1/policy").json()["thetas"]
        client.put("/v1/policy", json={"thetas": [1.0] * len(thetas)}).raise_for_status()


class Memory:
    """The most memory that nodes took while it watched: resident, shared pages divided among those that share them."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.peak_mb = {each.name: 0.0 for each in nodes}
        self._nodes = nodes
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """Watch no longer; the most that one of them took, in MB."""
        self._stop.set()
        self._thread.join()
        return max(self.peak_mb.values())

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            for each in self._nodes:
                self.peak_mb[each.name] = max(self.peak_mb[each.name], memory_mb(each))


def memory_mb(node: Node) -> float:
    """What a node and its processes take now, in MB."""
    total = 0
    for each in node.processes():
        with suppress(psutil.Error):
            total += each.memory_full_info().pss
    return total / 2**20
