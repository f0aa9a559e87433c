"""Asks a cloud node as fast as it answers, in a process of its own, so that its CPU time is counted separately.

It reads turns as lines of JSON, `{"target": …, "seconds": …}`, and answers each with a line of results. The calls are
those that an edge would make: features of real photos that no exit of the edge was confident about, one sample each.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc
import numpy as np
import uvloop
from pydantic import Field

from offramp.authoring.data import load_unlabelled
from offramp.bundle import Bundle, load_bundle
from offramp.cli.options import BundleArgument
from offramp.command import Command, run_command
from offramp.engine.runtime import load_blocks
from offramp.engine.tier import Answer, Handover, Tier
from offramp.errors import ConfigError
from offramp.serving.offload.channel import channel_options
from offramp.wire.codec import decode_feature, encode_feature
from offramp.wire.messages import SERVICE_NAME, probabilities_to_bytes
from offramp.wire.v1 import wire_pb2 as pb

_WARM_UP_S = 1.0
_DEADLINE_S = 10.0


@dataclass(frozen=True)
class Call:
    """One call in its encoded form, and the probabilities that its answer must have."""

    request: bytes
    probabilities: bytes


@dataclass
class Turn:
    """How many calls were answered in the measured time and in all, and how many failed or had other probabilities."""

    calls: int = 0
    calls_in_all: int = 0
    wrong: int = 0


def real_calls(bundle: Bundle, photos: Path) -> list[Call]:
    """The calls that an edge at the bundle's default operating point would make for these photos.

    Raises:
        ConfigError: its exits are confident about every photo.
    """
    manifest = bundle.manifest
    point = manifest.operating_point
    last = point.split_point - 1
    edge = Tier(manifest, load_blocks(bundle, 1, last), start=1)
    cloud = Tier(manifest, load_blocks(bundle, last + 1, len(manifest.blocks)), start=last + 1)
    block = manifest.blocks[last - 1]
    calls = []
    for number, pixels in enumerate(load_unlabelled(photos, manifest.preprocessing).pixels):
        (outcome,) = edge.run(pixels[np.newaxis], point.thetas)
        if not isinstance(outcome, Handover):
            continue
        sent = encode_feature(outcome.feature[np.newaxis], manifest.codec_at(last + 1), block.levels)
        (answer,) = cloud.run(decode_feature(sent, block=block, num_samples=1), point.thetas)
        assert isinstance(answer, Answer)
        request = pb.InferRequest(
            bundle_id=manifest.bundle_id,
            request_ids=[f"{number:016x}"],
            next_block=last + 1,
            thetas=point.thetas,
            feature=sent,
        )
        calls.append(Call(request.SerializeToString(), probabilities_to_bytes(answer.probabilities)))
    if not calls:
        raise ConfigError(f"'{manifest.bundle_id}' is confident about every photo in {photos}; give others")
    return calls


async def take_turn(target: str, calls: list[Call], *, seconds: float, channels: int, in_flight: int) -> Turn:
    """Ask `target` for `seconds`, with `in_flight` calls in flight on each of `channels` connections."""
    turn = Turn()
    begin = time.monotonic() + _WARM_UP_S
    source = itertools.cycle(calls)
    options = [*channel_options(health_check=False), ("grpc.use_local_subchannel_pool", 1)]

    async def ask(infer: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]) -> None:
        while (now := time.monotonic()) < begin + seconds:
            call = next(source)
            try:
                found = pb.InferResponse.FromString(await infer(call.request, timeout=_DEADLINE_S))
            except grpc.aio.AioRpcError as error:
                turn.wrong += 1
                print(f"{target}: {error.code().name}: {error.details()}", file=sys.stderr)
                continue
            turn.wrong += [answer.probabilities for answer in found.answers] != [call.probabilities]
            turn.calls_in_all += 1
            turn.calls += begin <= now

    opened = [grpc.aio.insecure_channel(target, options=options) for _ in range(channels)]
    infers = [channel.unary_unary(f"/{SERVICE_NAME}/Infer", bytes, bytes) for channel in opened]
    await asyncio.gather(*(ask(infer) for infer in infers for _ in range(in_flight)))
    for channel in opened:
        await channel.close(None)
    return turn


async def _serve(calls: list[Call], channels: int, in_flight: int) -> None:
    for line in iter(sys.stdin.readline, ""):  # nothing else runs while it waits for its turn
        turn = await take_turn(**json.loads(line), calls=calls, channels=channels, in_flight=in_flight)
        print(json.dumps(asdict(turn)), flush=True)


class Client(Command):
    """Ask a cloud node, turn by turn, until standard input ends."""

    bundle: BundleArgument
    photos: Path = Field(description="folder of photos whose features are sent")
    channels: int = Field(ge=1, description="connections")
    in_flight: int = Field(ge=1, description="calls in flight on each connection")

    def execute(self) -> None:
        """Print how many calls there are to send, then take turns."""
        calls = real_calls(load_bundle(self.bundle), self.photos)
        print(len(calls), flush=True)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(calls, self.channels, self.in_flight))


if __name__ == "__main__":
    run_command(Client, sys.argv[1:], program="python -m benchmarks.scale.client")
