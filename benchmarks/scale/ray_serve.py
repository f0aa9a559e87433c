"""The cloud node under Ray Serve on this machine, set up as in deploy/ray/offramp.yaml."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
import yaml

from offramp.errors import ConfigError
from offramp.wire.v1 import wire_pb2 as pb
from offramp.wire.v1.wire_pb2_grpc import TierServiceStub

_ROOT = Path(__file__).parents[2]
CONFIG = _ROOT / "deploy" / "ray" / "offramp.yaml"
_START_S = 90.0
_STOP_S = 10.0

# Replicas take calls directly, behind the HAProxy that Ray starts and keeps up to date.
THROUGH_HAPROXY = {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_SERVE_ENABLE_HA_PROXY": "1"}


@dataclass(frozen=True)
class RayServe:
    """A running application: HOST:PORT for edges, and the process that all of Ray's processes descend from."""

    address: str
    pid: int


def has_ray(python: str) -> bool:
    """Whether that interpreter's environment has Ray Serve."""
    if python == sys.executable:
        return importlib.util.find_spec("ray") is not None
    done = subprocess.run([python, "-c", "import ray.serve"], capture_output=True, check=False)
    return done.returncode == 0


def environment(*, haproxy: bool = False) -> dict[str, str]:
    """Environment variables for a process that runs this working copy in Ray's environment."""
    return {
        **os.environ,
        **(THROUGH_HAPROXY if haproxy else {}),
        "PYTHONPATH": os.pathsep.join((str(_ROOT / "shared"), str(_ROOT))),
        "RAY_ADDRESS": "local",  # never a cluster that happens to run here
        "RAY_LOG_TO_DRIVER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


@contextmanager
def running_ray(
    bundle: Path, *, python: str, replicas: int, haproxy: bool = False, **tier: Any
) -> Iterator[RayServe]:
    """Run the application on a Ray of its own; it takes calls on entry, with all replicas a moment later.

    Args:
        bundle: directory of the bundle to serve.
        python: interpreter whose environment has Ray Serve.
        replicas: exact number of replicas.
        haproxy: whether calls go to the replicas through Ray's HAProxy instead of through its Python proxy.
        tier: more options of the deployment, as in the file.

    Raises:
        ConfigError: it does not start.
    """
    grpc_port, http_port = _free_port(), _free_port()
    with tempfile.TemporaryDirectory() as directory:
        config, log = Path(directory, "offramp.yaml"), Path(directory, "log")
        config.write_text(_config(bundle, grpc_port, http_port, replicas, tier))
        command = [python, "-m", "ray.serve.scripts", "run", "--blocking", str(config)]
        with log.open("wb") as file:
            process = subprocess.Popen(
                command, env=environment(haproxy=haproxy), stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )
        try:
            yield _ready(process, f"127.0.0.1:{grpc_port}", log)
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop Ray, and those of its processes that outlive it."""
    with suppress(psutil.Error):
        rest = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        _, late = psutil.wait_procs([psutil.Process(process.pid), *rest], timeout=_STOP_S)
        for each in late:
            with suppress(psutil.Error):
                each.kill()
    process.wait()


def _config(bundle: Path, grpc_port: int, http_port: int, replicas: int, tier: dict[str, Any]) -> str:
    config = yaml.safe_load(CONFIG.read_text())
    config["http_options"] = {"host": "127.0.0.1", "port": http_port}
    config["grpc_options"]["port"] = grpc_port
    application = config["applications"][0]
    application["args"]["bundle"] = str(bundle.resolve())
    (deployment,) = application["deployments"]
    del deployment["autoscaling_config"]
    # Let more replicas start than there are cores.
    deployment.update({"num_replicas": replicas, "ray_actor_options": {"num_cpus": 0.1}, **tier})
    return json.dumps(config)  # JSON is valid YAML


def _ready(process: subprocess.Popen[bytes], address: str, log: Path) -> RayServe:
    until = time.monotonic() + _START_S
    with grpc.insecure_channel(address) as channel:
        stub: Any = TierServiceStub(channel)  # type: ignore[no-untyped-call] # generated
        while time.monotonic() < until and process.poll() is None:
            try:
                stub.Describe(pb.DescribeRequest(), timeout=2)
            except grpc.RpcError:
                time.sleep(0.2)
            else:
                return RayServe(address, process.pid)
    said = log.read_text().strip().splitlines()
    raise ConfigError(f"Ray Serve did not start: {said[-1] if said else 'it printed nothing'}")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port
