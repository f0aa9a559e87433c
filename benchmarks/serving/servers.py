"""Runs servers under test as process trees: starts them, waits for an answer, measures them, stops them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.serving.cores import Cores, check_pinned, pinned
from benchmarks.serving.rivals import Rival
from offramp.errors import ConfigError

_START_S = 90.0
_STOP_S = 10.0
_DRAIN_S, _LOOK_S = 15.0, 0.2
_IDLE = 0.3  # cores that an idle server still uses at most


@dataclass(eq=False)
class Tree:
    """A process and all its descendants. The processor time of a child still counts after it has ended."""

    process: psutil.Process
    _seen_s: dict[int, float] = field(default_factory=dict)

    def cpu_s(self) -> float:
        """Seconds of processor time so far."""
        for each in self._all():
            try:
                times = each.cpu_times()
            except psutil.NoSuchProcess:
                continue
            self._seen_s[each.pid] = times.user + times.system
        return sum(self._seen_s.values())

    def cpu_s_by_process(self) -> dict[int, float]:
        """The same by process id."""
        self.cpu_s()
        return dict(self._seen_s)

    def memory_bytes(self) -> int:
        """Resident memory, with shared pages divided among the processes that share them (PSS)."""
        total = 0
        for each in self._all():
            try:
                total += each.memory_full_info().pss
            except psutil.NoSuchProcess:
                continue
        return total

    def _all(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]


@dataclass(frozen=True)
class Server:
    """A running server: its URL, its processes by name, and the seconds until its first answer.

    cores: those it is kept to, if not all.
    """

    name: str
    url: str
    trees: Mapping[str, Tree]
    start_s: float
    takes_form: bool = False
    cores: Cores | None = None

    def wait_until_idle(self) -> None:
        """Let it finish what clients that have left still had queued, which would be part of the next turn."""
        end = time.monotonic() + _DRAIN_S
        used_s = self._cpu_s()
        while time.monotonic() < end:
            time.sleep(_LOOK_S)
            before_s, used_s = used_s, self._cpu_s()
            if used_s - before_s < _IDLE * _LOOK_S:
                return

    def _cpu_s(self) -> float:
        return sum(tree.cpu_s() for tree in self.trees.values())


def free_port() -> int:
    """A port that nothing listens on at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


@contextmanager
def running(
    name: str,
    url: str,
    commands: Mapping[str, Sequence[str]],
    variables: Mapping[str, str],
    photo: bytes,
    *,
    form: bool = False,
    cores: Cores | None = None,
) -> Iterator[Server]:
    """Start a server's processes, one after the other, and wait for its first answer.

    Raises:
        ConfigError: it does not answer, and the message quotes its last line of output; or it does not keep to `cores`.
    """
    with tempfile.TemporaryFile() as log:
        started: dict[str, subprocess.Popen[bytes]] = {}
        begun = time.perf_counter()
        try:
            for part, command in commands.items():
                with pinned(cores):
                    started[part] = subprocess.Popen(
                        command,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        env={**os.environ, **variables},
                        start_new_session=True,
                    )
            _until_it_answers(name, url, as_request(photo, form=form), started, log.fileno())
            start_s = time.perf_counter() - begun
            trees = {part: Tree(psutil.Process(process.pid)) for part, process in started.items()}
            if cores is not None:
                for tree in trees.values():
                    check_pinned(name, tree.process, cores)
            yield Server(name, url, trees, start_s, form, cores)
        finally:
            for process in reversed(started.values()):
                _end(process)


def _until_it_answers(
    name: str, url: str, body: Mapping[str, Any], started: Mapping[str, subprocess.Popen[bytes]], log: int
) -> None:
    end = time.monotonic() + _START_S
    while time.monotonic() < end and all(process.poll() is None for process in started.values()):
        try:
            answer = httpx.post(url, timeout=20, trust_env=False, **body)
            if answer.status_code == 200 and not answer.json().get("degraded"):
                return
        except (httpx.HTTPError, ValueError):
            pass
        time.sleep(0.02)
    said = os.pread(log, 1_000_000, 0).decode(errors="replace").strip().splitlines()
    raise ConfigError(f"{name} did not answer at {url}: {said[-1] if said else 'it printed nothing'}")


def offload_all(edge: str) -> None:
    """Set θ of an edge node, at http://HOST:PORT, so that no exit answers but the last."""
    policy = f"{edge}/v1/policy"
    thetas = httpx.get(policy, trust_env=False).json()["thetas"]
    httpx.put(policy, json={"thetas": [1.0] * len(thetas)}, trust_env=False).raise_for_status()


def as_request(photo: bytes, *, form: bool) -> dict[str, Any]:
    """What httpx is to send: the photo as a form field or as the body."""
    if form:
        return {"files": {"content": photo}}
    return {"content": photo, "headers": {"content-type": "image/jpeg"}}


def _end(process: subprocess.Popen[bytes]) -> None:
    # Stop the whole tree, because some servers leave their workers behind.
    with_children = [psutil.Process(process.pid)] if psutil.pid_exists(process.pid) else []
    below = [child for parent in with_children for child in parent.children(recursive=True)]
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in psutil.wait_procs(below, timeout=2)[1]:
        child.kill()


@contextmanager
def rival(each: Rival, environments: Path, spec: Path, photo: bytes) -> Iterator[Server]:
    """Run a rival in an environment of its own, which is made if it does not exist or has other releases.

    Raises:
        ConfigError: it cannot be installed, or does not answer.
    """
    environment = environments / each.folder
    _install(each, environment)
    port = free_port()
    url = f"http://127.0.0.1:{port}{each.path}"
    command = {"server": each.argv(environment, port)}
    with running(each.name, url, command, each.variables(spec, port), photo, form=each.takes_form) as server:
        yield server


def _install(each: Rival, environment: Path) -> None:
    wanted, installed = "\n".join(each.requirements), environment / "installed.txt"
    if installed.exists() and installed.read_text(encoding="utf-8") == wanted:
        return
    environment.parent.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True, capture_output=True)
        pip = [str(environment / "bin" / "pip"), "install", "--quiet", *each.requirements]
        subprocess.run(pip, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        said = str(error.stderr).strip().splitlines()
        raise ConfigError(f"{each.name} cannot be installed: {said[-1] if said else error}") from error
    installed.write_text(wanted, encoding="utf-8")


@contextmanager
def offramp(
    bundle: Path,
    point: str,
    photo: bytes,
    *,
    edge: Sequence[str],
    cloud: Sequence[str] | None,
    cores: Cores | None = None,
) -> Iterator[Server]:
    """Run edge and cloud on this machine at an operating point, or the edge alone with all blocks if `cloud` is None.

    Args:
        bundle: directory.
        point: name of the operating point.
        photo: asked for until it is answered.
        edge, cloud: options of the nodes.
        cores: those that the nodes may use, if not all.

    Raises:
        ConfigError: a node does not answer, or does not keep to `cores`.
    """
    ports = free_port(), free_port()
    common = [str(bundle), "--log-level", "WARNING", "--port"]  # rivals say nothing of single answers either
    start = [sys.executable, "-m"]
    commands: dict[str, Sequence[str]] = {}
    if cloud is not None:
        commands["cloud"] = [*start, "cloud_node", *common, str(ports[1]), *cloud]
        edge = [*edge, "--upstream", f"127.0.0.1:{ports[1]}"]
    commands["edge"] = [*start, "edge_node", *common, str(ports[0]), *edge]
    base = f"http://127.0.0.1:{ports[0]}"
    variables = {"OMP_NUM_THREADS": "1"}
    name = "Offramp"
    with running(name, f"{base}/v1/predict", commands, variables, photo, cores=cores) as server:
        policy = httpx.put(f"{base}/v1/policy", json={"operating_point": point}, trust_env=False)
        policy.raise_for_status()
        yield server
