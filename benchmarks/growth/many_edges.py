"""Many edge nodes on one cloud node, asked at the same rate together: what each further edge costs the cloud."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles

import httpx
import psutil

from benchmarks.serving.servers import Tree, free_port, offload_all
from offramp.bundle import load_bundle
from offramp.cli.processes import NodeProcess, node_process

_SETTLE_S = 2.0


@dataclass(frozen=True)
class Asked:
    """What edges and cloud used for one request, while all samples were offloaded."""

    requests: int
    degraded: int
    p50_ms: float
    p99_ms: float
    edges_us: float
    cloud_us: float
    samples_a_call: float
    cloud_bytes: int


def ask_edges(
    bundle: Path, photos: Sequence[bytes], *, edges: int, per_second: float, seconds: float
) -> Asked:
    """Start one cloud and so many edges, and ask the edges in random order, at random times."""
    manifest = load_bundle(bundle).manifest
    deeper = f"{manifest.operating_point.split_point}-{len(manifest.blocks)}"
    metrics = free_port()
    with ExitStack() as stack:
        arguments = [str(bundle), "--port", "0", "--blocks", deeper, "--metrics-port", str(metrics)]
        cloud = stack.enter_context(node_process("cloud_node", arguments, name="cloud"))
        edge = [str(bundle), "--port", "0", "--upstream", cloud.address, "--offload-timeout-s", "10"]
        nodes = [
            stack.enter_context(node_process("edge_node", edge, name=f"edge {number}"))
            for number in range(edges)
        ]
        urls = [f"http://{node.address}" for node in nodes]
        for url in urls:
            offload_all(url)
        asyncio.run(_asked(urls, photos, per_second, _SETTLE_S))
        trees = {"edges": _trees(nodes), "cloud": _trees([cloud])}
        before, calls = _used_s(trees), _calls(metrics)
        latencies_ms, degraded = asyncio.run(_asked(urls, photos, per_second, seconds))
        after, samples = (
            _used_s(trees),
            [now - then for now, then in zip(_calls(metrics), calls, strict=True)],
        )
        count = len(latencies_ms)
        cuts = quantiles(latencies_ms, n=100)
        return Asked(
            requests=count,
            degraded=degraded,
            p50_ms=cuts[49],
            p99_ms=cuts[98],
            edges_us=1e6 * (after["edges"] - before["edges"]) / count,
            cloud_us=1e6 * (after["cloud"] - before["cloud"]) / count,
            samples_a_call=samples[1] / max(1.0, samples[0]),
            cloud_bytes=trees["cloud"][0].memory_bytes(),
        )


def _trees(nodes: Sequence[NodeProcess]) -> list[Tree]:
    return [Tree(psutil.Process(node.pid)) for node in nodes]


def _used_s(trees: dict[str, list[Tree]]) -> dict[str, float]:
    return {name: sum(tree.cpu_s() for tree in each) for name, each in trees.items()}


def _calls(metrics_port: int) -> tuple[float, float]:
    """Calls and samples that the cloud has answered."""
    text = httpx.get(f"http://127.0.0.1:{metrics_port}/metrics", trust_env=False).text
    values = dict(
        line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("offramp_batch_samples_")
    )
    return float(values["offramp_batch_samples_count"]), float(values["offramp_batch_samples_sum"])


async def _asked(
    urls: Sequence[str], photos: Sequence[bytes], per_second: float, seconds: float
) -> tuple[list[float], int]:
    """Latencies in milliseconds, and how many answers were degraded."""
    chance = random.Random(0)
    latencies_ms: list[float] = []
    degraded = 0
    async with httpx.AsyncClient(
        trust_env=False, timeout=30, limits=httpx.Limits(max_connections=None)
    ) as client:

        async def ask(url: str, photo: bytes) -> None:
            nonlocal degraded
            begun = time.perf_counter()
            answer = await client.post(
                f"{url}/v1/predict", content=photo, headers={"content-type": "image/jpeg"}
            )
            latencies_ms.append(1000 * (time.perf_counter() - begun))
            degraded += answer.raise_for_status().json()["degraded"]

        begun = due = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            while due < begun + seconds:
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                group.create_task(ask(chance.choice(urls), chance.choice(photos)))
                due += chance.expovariate(per_second)
    return latencies_ms, degraded
