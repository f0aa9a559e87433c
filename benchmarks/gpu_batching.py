"""How a cloud node collects batches for a GPU: on one, or on blocks that take as long as published kernels.

    python -m benchmarks.gpu_batching                                                       # without a GPU
    python -m benchmarks.gpu_batching --bundle models/b-resnet56-cifar10 --runtime cuda     # with one

A node's `Batcher` and its measurement at start are the real ones. Without a GPU, a block sleeps for as long as
ResNet-50 took on a V100, according to somebody else's measurement, one batch at a time, and copies to the device and
back are not in it. gRPC is in neither. Calls of one sample arrive at random (Poisson), at shares of what the GPU could
do in batches of `most`.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import uvloop
from numpy.typing import NDArray
from pydantic import Field
from rich.console import Console

from benchmarks.serving.page import machine
from offramp.bundle import load_bundle
from offramp.bundle.manifest import Manifest
from offramp.cli.progress import progress
from offramp.command import Command, run_command
from offramp.engine.runtime import BlockOutput, Runtime, load_blocks
from offramp.engine.runtime.block import BlockRunner
from offramp.engine.tier import Tier
from offramp.serving.batching import Batcher
from offramp.serving.call import Call, Sample
from offramp.serving.gain import gaining_batch

_SOURCE = "https://gist.github.com/1duo/efd3be1dc8eb2c45863b75f20a76f8b2"
# Milliseconds of a batch, by its size: ResNet-50, TensorRT 4, V100.
_TOOK_MS = {
    "float32": {1: 2.68, 2: 4.08, 4: 6.08, 8: 8.28, 16: 13.05, 32: 23.13},
    "float16": {1: 2.08, 2: 2.65, 4: 2.84, 8: 3.29, 16: 4.35, 32: 6.59},
}
_SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)
_BUNDLE = Path("models/b-resnet56-cifar10")
_RUNS = 10
_HEAD = "| blocks | calls/s asked for | batches | answered/s | p50 / p99 ms | mean batch |"


class PublishedBlock:
    """The last block, on a GPU that runs one batch at a time, filled up to the next published size."""

    def __init__(self, took_ms: dict[int, float]) -> None:
        """Take the milliseconds of a batch, by its size."""
        self._took_ms = took_ms
        self._is_busy = Lock()

    def run(self, batch: NDArray[Any]) -> BlockOutput:
        """Sleep for as long as the batch would take."""
        with self._is_busy:
            time.sleep(next(ms for size, ms in self._took_ms.items() if size >= len(batch)) / 1000)
        return BlockOutput(
            None, np.full((len(batch), 10), 0.1, np.float32), np.full(len(batch), 0.5, np.float32)
        )


class Counted:
    """A block that keeps the sizes of its batches."""

    def __init__(self, block: BlockRunner) -> None:
        """Take the block."""
        self._block = block
        self.batches: list[int] = []

    def run(self, batch: NDArray[Any]) -> BlockOutput:
        """Run the block."""
        found = self._block.run(batch)
        self.batches.append(len(batch))
        return found

    def seconds_of(self, batch: NDArray[Any]) -> float:
        """How long a batch takes, at best."""
        took = []
        for _ in range(_RUNS):
            begun = time.perf_counter()
            self.run(batch)
            took.append(time.perf_counter() - begun)
        return min(took)


@dataclass(frozen=True)
class Way:
    """A way to collect batches: what the page calls it, whether gains are measured, and the window."""

    name: str
    measures: bool = True
    window_ms: float = 0.0


_WAYS = (
    Way("as on a CPU", measures=False),
    Way("as large as gains, measured at start"),
    Way("held back for 5 ms", measures=False, window_ms=5.0),
)


class GpuBatching(Command):
    """See how a node collects batches for a GPU: simulated, unless a runtime is named.

    Example: python -m benchmarks.gpu_batching --page benchmarks/gpu_batching.md
    """

    bundle: Path = Field(default=_BUNDLE, description="whose last block is run; if simulated, any would do")
    runtime: Runtime | None = Field(default=None, description="run the block on this one, such as cuda")
    seconds: float = Field(default=4.0, gt=0, description="length of each turn")
    most: int = Field(default=32, ge=1, le=32, description="most samples in a batch")
    workers: int = Field(default=2, ge=1, description="threads that hand batches to the GPU")
    page: Path | None = Field(default=None, description="also write this Markdown file")

    def execute(self) -> None:
        """Run every way at every rate and print the rows."""
        rows = []
        blocks = {name: Counted(block) for name, block in self._blocks().items()}
        most_per_s = {name: self._most_per_s(block) for name, block in blocks.items()}
        turns = [(name, share, way) for name in blocks for share in _SHARES for way in _WAYS]
        with progress("turns", len(turns)) as advance:
            for name, share, way in turns:
                rows.append(self._row(name, blocks[name], share * most_per_s[name], way))
                advance(1)
        text = "\n".join(self._lines(rows))
        Console().print(text, markup=False, highlight=False, soft_wrap=True)
        if self.page:
            self.page.write_text(text + "\n")

    def _blocks(self) -> Mapping[str, BlockRunner]:
        if self.runtime is None:
            return {f"ResNet-50, {precision}": PublishedBlock(ms) for precision, ms in _TOOK_MS.items()}
        bundle = load_bundle(self.bundle)
        last = len(bundle.manifest.blocks)
        [block] = load_blocks(bundle, last, last, runtime=self.runtime, workers=self.workers)
        return {f"{bundle.manifest.name}, {self.runtime}": block}

    @cached_property
    def _manifest(self) -> Manifest:
        return load_bundle(self.bundle).manifest

    def _batch(self, size: int) -> NDArray[Any]:
        given = self._manifest.blocks[-1].input
        return np.zeros((size, *given.shape), given.dtype)

    def _most_per_s(self, block: Counted) -> float:
        return self.most / block.seconds_of(self._batch(self.most))

    def _row(self, name: str, block: Counted, rate: float, way: Way) -> str:
        manifest = self._manifest
        tier = Tier(manifest, [block], start=len(manifest.blocks))
        gaining = gaining_batch(tier, most=self.most) if way.measures else 1
        block.batches.clear()
        batcher = Batcher(
            tier, workers=self.workers, max_batch=self.most, gaining=gaining, window_s=way.window_ms / 1000
        )
        arrivals = list(_arrivals(rate, self.seconds))
        given = self._batch(1)
        call = Call(
            samples=[Sample("")],
            thetas=(1.0,) * (manifest.num_exits - 1),
            first_block=tier.start,
            load=lambda: given,
            is_light=True,
        )
        times_ms, took_s = uvloop.run(_asked(batcher, call, arrivals))
        batcher.close()
        median, slowest = np.percentile(times_ms, [50, 99])
        return (
            f"| {name} | {rate:.0f} | {way.name} | {len(times_ms) / took_s:.0f} | {median:.1f} / {slowest:.1f} "
            f"| {np.mean(block.batches):.1f} |"
        )

    def _lines(self, rows: Sequence[str]) -> Iterator[str]:
        yield f"# Batches for a GPU{'' if self.runtime else ', simulated'}"
        yield ""
        yield (
            f"Made by `python -m benchmarks.gpu_batching{self._options()}`. {self._what()} Calls of one sample arrive "
            f"at random, at shares of what the block could do in batches of {self.most}; {self.workers} workers, "
            f"batches of at most {self.most}, {self.seconds:g} s each. A rate that is not answered makes calls wait "
            "ever longer."
        )
        yield ""
        yield machine()
        yield ""
        yield from (_HEAD, "| --- | --- | --- | --- | --- | --- |", *rows)

    def _options(self) -> str:
        return f" --bundle {self.bundle} --runtime {self.runtime}" if self.runtime else ""

    def _what(self) -> str:
        if self.runtime:
            return (
                "A node's own batching, on the last block of a bundle, copies to the device and back included. "
                f"GPU: {_gpus()}."
            )
        return (
            "**Nothing of this ran on a GPU**: a node's own batching ran with blocks that sleep for as long as "
            f"ResNet-50 took on a V100, as published at <{_SOURCE}>, one batch at a time."
        )


def _gpus() -> str:
    """What the driver calls the devices of this machine; the runtime may use none."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        return (
            subprocess.run(command, capture_output=True, check=True, text=True)
            .stdout.strip()
            .replace("\n", ", ")
        )
    except (OSError, subprocess.CalledProcessError):
        return "none"


def _arrivals(rate: float, seconds: float) -> Iterator[float]:
    """Seconds from the beginning at which calls arrive; the same for every way."""
    drawn = random.Random(0)
    at = 0.0
    while (at := at + drawn.expovariate(rate)) < seconds:
        yield at


async def _asked(batcher: Batcher, call: Call, arrivals: Sequence[float]) -> tuple[list[float], float]:
    """Milliseconds that each call took, and the seconds until the last one was answered."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    times_ms: list[float] = []

    async def ask(at: float) -> None:
        await batcher.run(call)
        times_ms.append(1000 * (loop.time() - begun - at))

    async with asyncio.TaskGroup() as asking:
        left = list(arrivals)
        while left:
            due = bisect_left(left, loop.time() - begun)
            for at in left[:due]:
                asking.create_task(ask(at))
            del left[:due]
            if left:
                await asyncio.sleep(max(0.0, left[0] - (loop.time() - begun)))
    return times_ms, loop.time() - begun


if __name__ == "__main__":
    run_command(GpuBatching, sys.argv[1:], program="python -m benchmarks.gpu_batching")
