"""What surrounds a node (rows 12, 13, 18, 19, 21): its log, its page's readers, its environment, its addresses."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence

import httpx

from tests.chaos import files
from tests.chaos.load import Tally, ask
from tests.chaos.nodes import BUNDLE, Memory, Node, free_port, memory_mb
from tests.chaos.stage import MEMORY_MB, Check, Outcome, Scenario, Stage, until


async def log_that_nobody_reads(stage: Stage) -> Outcome:
    """A pipe takes 64 kB; the node must go on when it is full."""
    port = free_port()
    command = [
        sys.executable,
        "-P",
        "-m",
        "offramp.serving.child",
        "edge_node",
        str(BUNDLE),
        "--port",
        str(port),
    ]
    process = subprocess.Popen(  # noqa: ASYNC220 - it only starts
        command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    try:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", timeout=5, trust_env=False
        ) as client:
            await until(lambda: _answers(f"http://127.0.0.1:{port}/healthz"), within_s=40)
            seen = []
            for _ in range(2000):
                seen.append(await ask(client, files.small_photo()))
                if seen[-1].kind == "lost":
                    break
            metrics = "" if seen[-1].kind == "lost" else (await client.get("/metrics")).text
    finally:
        process.kill()
        process.wait()
    tally = Tally.of(seen)
    lines = [each for each in metrics.splitlines() if "log" in each and not each.startswith("#")]
    counted = any(not each.endswith(" 0.0") for each in lines)
    return Outcome(
        [
            Check("2,000 requests are answered", tally.whole == 2000, f"{tally.whole}; {tally.details}"),
            Check("lost lines are counted in /metrics", counted, "counted" if counted else "not counted"),
        ],
        during=tally,
    )


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


async def many_page_loads(stage: Stage) -> Outcome:
    edge = stage.edge()
    dashboard = stage.run("offramp_dashboard", "--edge", edge.url, "--port", "0")
    loads = int(stage.seconds(1000, 200))
    async with httpx.AsyncClient(base_url=dashboard.url, timeout=30, trust_env=False) as client:
        await client.get("/")
        before = memory_mb(dashboard)
        memory = Memory([dashboard])
        for _ in range(loads):
            await client.get("/")
    peak = memory.stop()
    return Outcome(
        [
            Check(
                "at most 256 MiB, however many",
                peak <= MEMORY_MB / 2,
                f"{before:.0f} MiB, then {peak:.0f} MiB",
            )
        ],
        attacked=loads,
        memory_mb=peak,
    )


_SERVICE_LINKS = {
    f"{name}_{suffix}": value
    for name in ("EDGE", "CLOUD", "DASHBOARD")
    for suffix, value in {
        "PORT": "tcp://10.0.0.7:8000",
        "SERVICE_HOST": "10.0.0.7",
        "SERVICE_PORT": "8000",
        "SERVICE_PORT_HTTP": "8000",
        "PORT_8000_TCP": "tcp://10.0.0.7:8000",
        "PORT_8000_TCP_ADDR": "10.0.0.7",
        "PORT_8000_TCP_PORT": "8000",
        "PORT_8000_TCP_PROTO": "tcp",
    }.items()
}


async def service_links(stage: Stage) -> Outcome:
    """Kubernetes' variables of Services called edge, cloud and dashboard, and a variable of somebody else's."""
    surrounding = {**_SERVICE_LINKS, "CLOUD_SDK_VERSION": "500.0.0", "CLOUD_RUN_JOB": "j"}
    nodes = {
        "edge": stage.run("edge_node", str(BUNDLE), "--port", "0", environment=surrounding),
        "cloud": stage.run("cloud_node", str(BUNDLE), "--port", "0", environment=surrounding),
        "dashboard": stage.run("offramp_dashboard", "--port", "0", environment=surrounding),
    }
    checks = []
    for name, started in nodes.items():
        await started.settled()
        log = started.log.strip()
        warned = any(word in log for word in ("WARNING", "SDK_VERSION", "SERVICE_HOST"))
        holds = started.is_ready and not warned
        checks.append(
            Check(
                f"the {name} node starts without a warning", holds, log.splitlines()[0][-110:] if log else ""
            )
        )
    return Outcome(checks)


async def ipv6(stage: Stage) -> Outcome:
    checks = []
    for module in ("edge_node", "cloud_node"):
        for host in ("::1", "[::1]", "::"):
            started = stage.run(module, str(BUNDLE), "--host", host, "--port", "0")
            await started.settled()
            log = started.log.strip()
            good = started.is_ready and await _listens_on_v6(module, started)
            checks.append(Check(f"{module} --host {host}", good, log.splitlines()[-1][-100:] if log else ""))
            await asyncio.to_thread(started.end)
    return Outcome(checks)


async def _listens_on_v6(module: str, node: Node) -> bool:
    port = int(node.address.rpartition(":")[2])
    if module == "edge_node":
        return await asyncio.to_thread(_answers, f"http://[::1]:{port}/healthz")
    from offramp.wire.v1 import wire_pb2 as pb
    from tests.chaos.calls import raw

    status, _ = await raw(f"[::1]:{port}", "Describe", pb.DescribeRequest().SerializeToString())
    return status.name == "OK"


async def limits_that_contradict(stage: Stage) -> Outcome:
    """Settings with which every chunked request would be refused for ever are refused at the start."""
    cases: dict[str, Sequence[str]] = {
        "a body larger than the buffer": ("--max-body-bytes", "200000000", "--max-buffered-bytes", "100000000"),
        "a body larger than a process's share": (
            "--processes", "4", "--max-body-bytes", "100000000", "--max-buffered-bytes", "256000000",
        ),
    }  # fmt: skip
    checks = []
    for name, arguments in cases.items():
        started = stage.run("edge_node", str(BUNDLE), "--port", "0", *arguments)
        await started.settled()
        said = started.log.strip().splitlines()
        if started.is_ready:
            status = await asyncio.to_thread(_chunked, started)
            checks.append(Check(name, status == 200, f"starts; a chunked photo gets {status}"))
        else:
            good = "max" in (said[-1].lower() if said else "")
            checks.append(Check(name, good, said[-1][:120] if said else "nothing"))
    return Outcome(checks)


def _chunked(node: Node) -> int:
    photo = files.small_photo()
    with httpx.Client(timeout=10, trust_env=False) as client:
        return client.post(f"{node.url}/v1/predict", content=iter([photo[:100], photo[100:]])).status_code


SCENARIOS = [
    Scenario(12, "log-nobody-reads", "a log pipe that nobody reads", log_that_nobody_reads),
    Scenario(13, "page-loads", "1,000 loads of the dashboard's page", many_page_loads),
    Scenario(
        18, "service-links", "Services called edge, cloud and dashboard; CLOUD_SDK_VERSION", service_links
    ),
    Scenario(19, "ipv6", "--host ::, ::1 and [::1]", ipv6),
    Scenario(21, "limits-that-contradict", "a body limit above the buffer", limits_that_contradict),
]
