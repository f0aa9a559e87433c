"""Nodes that leave and come back under load (row 15): nobody's request is lost."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import httpx

from tests.chaos import files
from tests.chaos.load import Seen, Tally, ask, client_of
from tests.chaos.nodes import Node, everything_to_the_cloud, free_port
from tests.chaos.stage import Check, Outcome, Scenario, Stage

_CLIENTS = 64


@dataclass
class Fleet:
    """Edges on fixed addresses, and which of them are ready: what a load balancer knows."""

    urls: Sequence[str]
    ready: set[str] = field(default_factory=set)
    stopped: bool = False

    async def watch(self) -> None:
        """Ask each for `/readyz` ten times a second."""
        async with client_of("") as client:
            while not self.stopped:
                await asyncio.gather(*(self._ask(client, url) for url in self.urls))
                await asyncio.sleep(0.1)

    async def _ask(self, client: httpx.AsyncClient, url: str) -> None:
        try:
            is_ready = (await client.get(f"{url}/readyz")).status_code == 200
        except httpx.HTTPError:
            is_ready = False
        (self.ready.add if is_ready else self.ready.discard)(url)

    async def client(self, seen: list[Seen], number: int) -> None:
        """One keep-alive client: it stays with an edge while that is ready, as a load balancer's connection does."""
        chosen = random.Random(number)
        while not self.stopped:
            if not self.ready:
                await asyncio.sleep(0.02)
                continue
            url = chosen.choice(sorted(self.ready))
            async with client_of(url) as client:
                while not self.stopped and url in self.ready:
                    seen.append(await ask(client, files.small_photo()))
                    await asyncio.sleep(chosen.random() * 0.6)


async def _under_clients(urls: Sequence[str], change: Callable[[], object]) -> Outcome:
    fleet = Fleet(urls)
    seen: list[Seen] = []
    watching = asyncio.create_task(fleet.watch())
    clients = [asyncio.create_task(fleet.client(seen, number)) for number in range(_CLIENTS)]
    await asyncio.sleep(2)
    begun = time.monotonic()
    await asyncio.to_thread(change)
    await asyncio.sleep(1)
    fleet.stopped = True
    await asyncio.gather(watching, *clients)
    before = [each for each in seen if each.at < begun]
    during = Tally.of([each for each in seen if each.at >= begun])
    failed = during.lost + during.refused
    return Outcome(
        [
            Check("there was a load", during.sent > 100, f"{during.sent}"),
            Check(
                "no request is lost, reset or refused",
                failed == 0,
                f"{failed} of {during.sent}; {during.details}",
            ),
        ],
        rest=Tally.of(before),
        during=during,
    )


async def rolling_edges(stage: Stage, processes: int) -> Outcome:
    cloud = stage.cloud()
    ports = [str(free_port()) for _ in range(2)]
    edges = [_edge(stage, port, cloud, processes) for port in ports]

    def roll() -> None:
        for _ in range(int(stage.seconds(3, 1))):
            for number, edge in enumerate(edges):
                edge.terminate()
                edge.wait(20)
                edges[number] = _edge(stage, ports[number], cloud, processes)

    return await _under_clients([f"http://127.0.0.1:{port}" for port in ports], roll)


def _edge(stage: Stage, port: str, cloud: Node, processes: int) -> Node:
    return stage.edge("--port", port, "--upstream", cloud.address, "--processes", str(processes))


async def rolling_clouds(stage: Stage) -> Outcome:
    ports = [str(free_port()) for _ in range(2)]
    clouds = [stage.cloud("--port", port) for port in ports]
    target = ",".join(f"127.0.0.1:{port}" for port in ports)
    edge = stage.edge("--upstream", f"ipv4:{target}")
    everything_to_the_cloud(edge)

    def roll() -> None:
        for _ in range(int(stage.seconds(3, 1))):
            for number, cloud in enumerate(clouds):
                cloud.terminate()
                cloud.wait(20)
                clouds[number] = stage.cloud("--port", ports[number])
                time.sleep(1.5)  # as a rollout that waits until the new one is used

    found = await _under_clients([edge.url], roll)
    assert found.during is not None
    share = found.during.degraded / max(1, found.during.sent)
    return found.but(Check("at most 1% degraded", share <= 0.01, f"{share:.1%} of {found.during.sent}"))


async def told_to_leave(stage: Stage) -> Outcome:
    """One edge under 64 clients that ask without knowing that it is about to leave: what it took, it answers."""
    edge = stage.edge()
    seen: list[Seen] = []
    stop = asyncio.Event()

    async def client() -> None:
        async with client_of(edge.url) as http:
            while not stop.is_set():
                found = await ask(http, files.small_photo())
                if found.kind == "lost" and "ConnectError" in found.detail:
                    return  # it has left, and said so in the way of TCP
                seen.append(found)
                await asyncio.sleep(0.2)

    clients = [asyncio.create_task(client()) for _ in range(_CLIENTS)]
    await asyncio.sleep(2)
    edge.terminate()
    status = []
    async with client_of(edge.url) as http:
        try:
            status.append((await http.get("/readyz")).status_code)
        except httpx.HTTPError as error:
            status.append(type(error).__name__)  # type: ignore[arg-type]
    await asyncio.to_thread(edge.wait, 15)
    stop.set()
    await asyncio.gather(*clients)
    tally = Tally.of(seen)
    failed = tally.lost + tally.refused
    return Outcome(
        [
            Check("what it accepts is answered", failed == 0, f"{failed} of {tally.sent}; {tally.details}"),
            Check("first it is not ready", status == [503], f"{status[0]}"),
        ],
        during=tally,
    )


SCENARIOS = [
    Scenario(15, "edge-leaves", "SIGTERM at an edge under 64 keep-alive clients", told_to_leave),
    Scenario(
        15,
        "rolling-edges",
        "two edges restarted in turn, 64 keep-alive clients",
        lambda stage: rolling_edges(stage, 1),
    ),
    Scenario(15, "rolling-edges-of-2", "the same, two processes each", lambda stage: rolling_edges(stage, 2)),
    Scenario(15, "rolling-clouds", "two clouds restarted in turn, 64 keep-alive clients", rolling_clouds),
]
