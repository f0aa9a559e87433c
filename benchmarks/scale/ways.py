"""Ways to put replicas of the cloud node behind one address, each started from scratch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from benchmarks.scale.envoy import envoy_binary, running_envoy
from benchmarks.scale.ray_serve import running_ray
from offramp.cli.processes import NodeProcess, node_process

_REPLICA_OF_RAY = "ray::ServeReplica"


@dataclass(frozen=True)
class Running:
    """A running cloud tier: the target to ask, and a function that reads the CPU seconds of its parts."""

    target: str
    cpu_s: Callable[[], Mapping[str, float]]


Way = Callable[[], AbstractContextManager[Running]]


def ways_for(bundle: Path, *, replicas: int, ray_python: str | None) -> dict[str, Way]:
    """One replica first, then every way to run several that is installed here."""
    ways: dict[str, Way] = {
        "1 replica": partial(_direct, bundle, 1),
        f"{replicas} replicas, round-robin": partial(_direct, bundle, replicas),
    }
    if envoy_binary() is not None:
        ways["1 replica behind Envoy"] = partial(_behind_envoy, bundle, 1)
        ways[f"{replicas} replicas behind Envoy"] = partial(_behind_envoy, bundle, replicas)
    if ray_python is not None:
        for haproxy, of in ((False, "Ray Serve"), (True, "Ray Serve's HAProxy")):
            for count in (1, replicas):
                named = f"{count} replica{'s' if count > 1 else ''} behind {of}"
                ways[named] = partial(_under_ray, bundle, count, ray_python, haproxy)
    return ways


@contextmanager
def _direct(bundle: Path, count: int) -> Iterator[Running]:
    with ExitStack() as stack:
        nodes = [stack.enter_context(_node(bundle)) for _ in range(count)]
        pids = [node.pid for node in nodes]
        target = "ipv4:" + ",".join(node.address for node in nodes)
        yield Running(target, lambda: {"replicas": sum(map(_used_s, pids))})


@contextmanager
def _behind_envoy(bundle: Path, count: int) -> Iterator[Running]:
    with ExitStack() as stack:
        nodes = [stack.enter_context(_node(bundle)) for _ in range(count)]
        envoy = stack.enter_context(running_envoy([node.address for node in nodes]))
        yield Running(
            envoy.address,
            lambda: {"replicas": sum(_used_s(node.pid) for node in nodes), "proxy": _used_s(envoy.pid)},
        )


@contextmanager
def _under_ray(bundle: Path, count: int, python: str, haproxy: bool) -> Iterator[Running]:
    with running_ray(bundle, python=python, replicas=count, haproxy=haproxy) as ray:
        yield Running(ray.address, partial(_ray_used_s, ray.pid))


def _ray_used_s(pid: int) -> dict[str, float]:
    """CPU seconds of Ray's replicas, and of everything else that Ray runs."""
    used = {"replicas": 0.0, "proxy": 0.0}
    root = psutil.Process(pid)
    for process in (root, *root.children(recursive=True)):
        try:
            part = "replicas" if "".join(process.cmdline()).startswith(_REPLICA_OF_RAY) else "proxy"
            used[part] += _used_s(process.pid)
        except psutil.Error:  # it has ended
            continue
    return used


def _used_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _node(bundle: Path) -> AbstractContextManager[NodeProcess]:
    return node_process("cloud_node", [str(bundle), "--port", "0"], name="cloud")
