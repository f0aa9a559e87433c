"""Faults between the tiers (rows 5 to 7, 10, 22, 23)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

from offramp.wire.messages import SERVICE_NAME
from tests.chaos import files
from tests.chaos.blackhole import BlackHole
from tests.chaos.calls import OWN, infer
from tests.chaos.load import Load, Seen, Tally
from tests.chaos.nodes import ROOT, Node, everything_to_the_cloud, free_port
from tests.chaos.packets import LostPackets
from tests.chaos.stage import Check, Outcome, Scenario, Stage, between, until
from tests.chaos.strangers import connected, head

_WHOLE_AGAIN_S = 2.0
_CALLS_AT_ONCE = 100


async def one_cloud_paused(stage: Stage) -> Outcome:
    clouds = [stage.cloud() for _ in range(2)]
    edge = stage.edge("--upstream", f"ipv4:{','.join(cloud.address for cloud in clouds)}")
    everything_to_the_cloud(edge)
    load = stage.load(edge)
    await asyncio.sleep(stage.seconds(10, 2))
    begun = time.monotonic()
    clouds[0].pause()
    await asyncio.sleep(stage.seconds(16, 8))
    clouds[0].go_on()
    ended = time.monotonic()
    await asyncio.sleep(stage.seconds(8, 2))
    return _fault(await _stopped(load), begun, ended, may_degrade=0.05)


async def one_cloud_killed(stage: Stage) -> Outcome:
    clouds = [stage.cloud() for _ in range(2)]
    edge = stage.edge("--upstream", f"ipv4:{','.join(cloud.address for cloud in clouds)}")
    everything_to_the_cloud(edge)
    load = stage.load(edge)
    await asyncio.sleep(stage.seconds(10, 2))
    begun = time.monotonic()
    clouds[0].process.kill()
    await asyncio.sleep(stage.seconds(16, 4))
    return _fault(await _stopped(load), begun, time.monotonic(), may_degrade=0.05)


async def packets_lost(stage: Stage, full_s: float) -> Outcome:
    cloud = stage.cloud()
    with LostPackets(cloud.address.rpartition(":")[2]) as link:
        # What TCP adds grows with the outage, so even a short run takes 20 s.
        return await _outage(stage, link, cloud.address, stage.seconds(full_s, 20))


async def silent_proxy(stage: Stage) -> Outcome:
    """Between the tiers sits what confirms everything and hands on nothing, so that TCP itself sees no fault."""
    async with BlackHole(stage.cloud().address) as link:
        return await _outage(stage, link, link.address, stage.seconds(20, 6))


async def _outage(stage: Stage, link: LostPackets | BlackHole, address: str, outage_s: float) -> Outcome:
    edge = stage.edge("--upstream", address)
    everything_to_the_cloud(edge)
    load = stage.load(edge)
    await asyncio.sleep(stage.seconds(10, 2))
    begun = time.monotonic()
    link.lose()
    await asyncio.sleep(outage_s)
    link.heal()
    ended = time.monotonic()
    await asyncio.sleep(outage_s + 6)
    found = _fault(await _stopped(load), begun, ended, may_degrade=1)
    soon = found.recovery_s is not None and found.recovery_s <= _WHOLE_AGAIN_S
    return found.but(Check(f"whole again within {_WHOLE_AGAIN_S:g} s", soon, _seconds(found.recovery_s)))


def _seconds(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.1f} s"


async def _stopped(load: Load) -> list[Seen]:
    return await asyncio.to_thread(load.stop)


def _fault(seen: Sequence[Seen], begun: float, ended: float, *, may_degrade: float) -> Outcome:
    """Judge a fault that lasted from `begun` to `ended`; every request of the load needs the cloud."""
    during = Tally.of(between(seen, begun, ended))
    after = between(seen, ended, float("inf"))
    late = [each.at - ended for each in after if each.kind != "whole"]
    # The last one that is not whole ends the recovery, unless nothing came after it.
    recovery_s = max(late, default=0.0) if after and after[-1].kind == "whole" else None
    failed = sum(each.kind in ("refused", "lost") for each in seen)
    share = during.degraded / max(1, during.sent)
    return Outcome(
        [
            Check("no request is refused or lost", failed == 0, f"{failed}; {during.details}"),
            Check(
                f"at most {may_degrade:.0%} degraded", share <= may_degrade, f"{share:.1%} of {during.sent}"
            ),
        ],
        rest=Tally.of(between(seen, 0, begun)),
        during=during,
        recovery_s=recovery_s if after else None,
    )


async def many_watches(stage: Stage) -> Outcome:
    """Health watches that begin all at once on one cloud, as after it was away, and calls over each channel."""
    cloud = stage.cloud()
    watches, channels = (int(stage.seconds(5000, 600)), int(stage.seconds(1000, 40)))
    photo = files.small_photo()
    async with AsyncExitStack() as stack:
        opened = [
            await stack.enter_async_context(grpc.aio.insecure_channel(cloud.address, options=OWN))
            for _ in range(channels)
        ]
        watching = [asyncio.create_task(_watch(opened[n % channels])) for n in range(watches)]
        held = sum([await asyncio.wait_for(_first(each), 120) for each in watching])
        answers = []
        for first in range(0, channels, _CALLS_AT_ONCE):  # fewer than a cloud's MAX_PENDING
            some = opened[first : first + _CALLS_AT_ONCE]
            answers += await asyncio.gather(*(_whole(channel, photo) for channel in some))
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
    return Outcome(
        [
            Check("every watch is served", held == watches, f"{held} of {watches}"),
            Check("every call is answered", sum(answers) == channels, f"{sum(answers)} of {channels}"),
        ],
        attacked=watches,
    )


async def _watch(channel: grpc.aio.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    call = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE_NAME))
    task = asyncio.current_task()
    assert task is not None
    async for reply in call:
        _SERVED[task] = reply.status == health_pb2.HealthCheckResponse.SERVING


_SERVED: dict[asyncio.Task[None], bool] = {}


async def _first(watch: asyncio.Task[None]) -> bool:
    end = time.monotonic() + 20
    while watch not in _SERVED and not watch.done() and time.monotonic() < end:
        await asyncio.sleep(0.01)
    return _SERVED.pop(watch, False)


async def _whole(channel: grpc.aio.Channel, photo: bytes) -> bool:
    try:
        return len((await infer(channel, [photo], timeout_s=30)).answers) == 1
    except grpc.aio.AioRpcError:
        return False


async def clients_that_leave(stage: Stage) -> Outcome:
    """The cloud is held while clients ask and leave; then it runs what is still wanted."""
    edge, cloud = stage.pair("--offload-timeout-s", "10", all_to_cloud=True)
    photo = files.photos()[0]
    before = cloud.log.count("event=answered")
    cloud.pause()
    for number in range(50):
        async with connected(edge.address) as (_, writer):
            writer.write(head(len(photo), "image/jpeg", f"X-Request-ID: left-{number}") + photo)
            await writer.drain()
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.2)
    cloud.go_on()
    await asyncio.sleep(2)
    ran = cloud.log.count("event=answered") - before
    return Outcome([Check("the cloud runs none of them", ran == 0, f"{ran} of 50")], attacked=50)


async def large_features(stage: Stage) -> Outcome:
    """More images than fit in one message of 64 MiB, as features."""
    bundle = str(ROOT / "models" / "b-lite0-grocery")
    cloud = stage.cloud(bundle, "--blocks", "2-3")
    edge = stage.edge(
        bundle, "--upstream", cloud.address, "--blocks", "1-1", "--payload", "feature",
        "--max-images", "256", "--offload-timeout-s", "60",
    )  # fmt: skip
    everything_to_the_cloud(edge)
    body = files.form([files.small_photo()] * 250)
    answer = await asyncio.to_thread(_post, edge, body, {"content-type": "multipart/form-data; boundary=x"})
    found = answer.json().get("predictions", [])
    degraded = [each["degraded_reason"] for each in found if each["degraded"]]
    text = f"{len(degraded)} of {len(found)} degraded; {degraded[0][:90] if degraded else answer.status_code}"
    return Outcome([Check("all are whole", len(found) == 250 and not degraded, text)])


def _post(edge: Node, body: bytes, headers: dict[str, str]) -> httpx.Response:
    return httpx.post(f"{edge.url}/v1/predict", content=body, headers=headers, timeout=120, trust_env=False)


async def three_tiers(stage: Stage) -> Outcome:
    """The last of three tiers dies while photos come; the first one says so."""
    cloud = stage.cloud("--blocks", "3-3")
    gateway = stage.cloud("--blocks", "2-2", "--upstream", cloud.address, "--tier", "gateway")
    edge = stage.edge("--upstream", gateway.address, "--blocks", "1-1")
    everything_to_the_cloud(edge)
    load = stage.load(edge)
    cloud.process.kill()
    took_s = await until(lambda: _says_down(_ready(edge)), within_s=15)
    await _stopped(load)
    return Outcome(
        [Check("/readyz says what is down", took_s is not None, f"{_ready(edge)}"[-200:])], recovery_s=took_s
    )


def _ready(edge: Node) -> object:
    return httpx.get(f"{edge.url}/readyz", timeout=10, trust_env=False).json()


def _says_down(found: object) -> bool:
    match found:
        case {"up": False}:
            return True
        case dict():
            return any(map(_says_down, found.values()))
        case list():
            return any(map(_says_down, found))
    return False


async def cloud_restarted_at_once(stage: Stage) -> Outcome:
    """The only cloud is killed and comes back on its port."""
    port = str(free_port())
    first = stage.cloud("--port", port)
    edge = stage.edge("--upstream", first.address)
    everything_to_the_cloud(edge)
    load = stage.load(edge)
    await asyncio.sleep(2)
    begun = time.monotonic()
    first.process.kill()
    await asyncio.sleep(stage.seconds(10, 3))
    await asyncio.to_thread(stage.cloud, "--port", port)
    ended = time.monotonic()
    await asyncio.sleep(6)
    found = _fault(await _stopped(load), begun, ended, may_degrade=1)
    good = found.recovery_s is not None and found.recovery_s <= _WHOLE_AGAIN_S
    return found.but(Check(f"whole again within {_WHOLE_AGAIN_S:g} s", good, _seconds(found.recovery_s)))


SCENARIOS = [
    Scenario(5, "one-cloud-paused", "one of two clouds paused for 16 s", one_cloud_paused),
    Scenario(5, "one-cloud-killed", "one of two clouds killed", one_cloud_killed),
    Scenario(
        6, "packets-lost-20-s", "packets dropped both ways for 20 s", lambda stage: packets_lost(stage, 20)
    ),
    Scenario(
        6, "packets-lost-90-s", "packets dropped both ways for 90 s", lambda stage: packets_lost(stage, 90)
    ),
    Scenario(6, "silent-proxy", "a proxy between the tiers that holds everything for 20 s", silent_proxy),
    Scenario(6, "cloud-killed", "the only cloud killed, back after 10 s", cloud_restarted_at_once),
    Scenario(7, "many-watches", "5,000 health watches and 1,000 channels on one cloud", many_watches),
    Scenario(10, "clients-that-leave", "50 clients leave while the cloud is held", clients_that_leave),
    Scenario(22, "large-features", "250 features, 75 MB together", large_features),
    Scenario(23, "three-tiers", "the last of three tiers killed", three_tiers),
]
