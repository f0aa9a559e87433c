"""Opens thousands of health watches on one cloud node, and asks it meanwhile: `python -m benchmarks.watches`.

Every edge process holds one watch. Prints how many watches and calls there were and how long they took, and the cloud's
memory and processor time, at rest included.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import Field

from benchmarks.scale.client import Call, real_calls
from offramp.bundle import load_bundle
from offramp.cli.options import BundleArgument
from offramp.cli.processes import node_process
from offramp.command import Command, run_command
from offramp.serving.http.limits import open_files
from offramp.wire.messages import SERVICE_NAME

_AT_ONCE = 200  # channels that are opened at the same time
_DEADLINE_S = 10.0


class Watches(Command):
    """Watch one cloud node over many connections, and ask it from all of them."""

    bundle: BundleArgument
    photos: Path = Field(description="folder of photos whose features are sent")
    watches: int = Field(default=5000, ge=1, description="health watches")
    channels: int = Field(default=1000, ge=1, description="connections that also make calls")
    rest_s: float = Field(
        default=30.0, gt=0, description="how long the connections then stay idle, in seconds"
    )

    def execute(self) -> None:
        """Print the figures."""
        open_files()
        with (
            node_process("cloud_node", [str(self.bundle), "--port", "0"], name="cloud") as cloud,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            runner.run(self._measure(cloud.address, cloud.pid))

    async def _measure(self, address: str, pid: int) -> None:
        calls = real_calls(load_bundle(self.bundle), self.photos)
        print(f"before: {_memory_mb(pid):.0f} MB")
        begun = time.perf_counter()
        channels = [_channel(address) for _ in range(self.watches)]
        watching = []
        for first in range(0, self.watches, _AT_ONCE):
            watching += await asyncio.gather(*map(_watch, channels[first : first + _AT_ONCE]))
        print(f"{len(watching)} watches in {time.perf_counter() - begun:.1f} s: {_memory_mb(pid):.0f} MB")
        begun = time.perf_counter()
        found = [await _ask(channels[: self.channels], calls) for _ in range(3)]
        wrong = sum(map(sum, found))
        print(f"{3 * self.channels} calls in {time.perf_counter() - begun:.1f} s, {wrong} of them failed")
        used, begun = _processor_s(pid), time.perf_counter()
        await asyncio.sleep(self.rest_s)
        share = (_processor_s(pid) - used) / (time.perf_counter() - begun)
        print(f"at rest: {100 * share:.1f} % of one core, {_memory_mb(pid):.0f} MB")
        for watch in watching:
            watch.cancel()
        await asyncio.gather(*(channel.close(None) for channel in channels))


def _channel(address: str) -> grpc.aio.Channel:
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.keepalive_time_ms", 10_000)]
    return grpc.aio.insecure_channel(address, options)


async def _watch(channel: grpc.aio.Channel) -> Any:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    call = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE_NAME))
    assert (await call.read()).status == health_pb2.HealthCheckResponse.SERVING
    return call


async def _ask(channels: Sequence[grpc.aio.Channel], calls: Sequence[Call]) -> list[bool]:
    """Make one call on each, all at the same time; whether each failed."""

    async def fails(channel: grpc.aio.Channel, call: Call) -> bool:
        for _ in range(
            3
        ):  # more calls than CLOUD_MAX_PENDING at the same time are refused; an edge asks again later
            try:
                await channel.unary_unary(f"/{SERVICE_NAME}/Infer", bytes, bytes)(
                    call.request, timeout=_DEADLINE_S
                )
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    print(error.code().name, error.details(), file=sys.stderr)
                    return True
                await asyncio.sleep(0.5)
            else:
                return False
        return True

    return list(
        await asyncio.gather(*(fails(each, calls[at % len(calls)]) for at, each in enumerate(channels)))
    )


def _memory_mb(pid: int) -> float:
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) / 1000


def _processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


if __name__ == "__main__":
    run_command(Watches, sys.argv[1:], program="python -m benchmarks.watches")
