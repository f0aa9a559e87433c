"""What guards add to the edge's computing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from offramp.bundle import Bundle
from offramp.engine.runtime import BlockRunner, load_blocks

_SECONDS = 8.0
_FEWEST = 50


@dataclass(frozen=True)
class Cost:
    """An edge with and without guards, measured in turn.

    last_block: of the edge. macs_share, ms_share: what guards add. plain_ms, guarded_ms: medians for one image.
    """

    last_block: int
    macs_share: float
    ms_share: float
    plain_ms: float
    guarded_ms: float
    rounds: int


def cost_of(plain: Bundle, guarded: Bundle) -> Cost:
    """Run the edge's blocks of both bundles in turn, for a few seconds."""
    last = plain.manifest.operating_point.split_point - 1
    edges = [load_blocks(bundle, 1, last) for bundle in (plain, guarded)]
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (1, *plain.manifest.preprocessing.pixel_shape), dtype=np.uint8)
    times: tuple[list[float], list[float]] = ([], [])
    until = time.perf_counter() + _SECONDS
    while time.perf_counter() < until or len(times[0]) < _FEWEST:
        for edge, spent in zip(edges, times, strict=True):
            spent.append(_once(edge, image))
    plain_ms, guarded_ms = (1000 * float(np.median(spent)) for spent in times)
    return Cost(
        last_block=last,
        macs_share=_macs(guarded, last) / _macs(plain, last) - 1,
        ms_share=guarded_ms / plain_ms - 1,
        plain_ms=plain_ms,
        guarded_ms=guarded_ms,
        rounds=len(times[0]),
    )


def _once(edge: Sequence[BlockRunner], image: Any) -> float:
    started = time.perf_counter()
    batch = image
    for block in edge:
        output = block.run(batch)
        if output.confidence is not None:
            _ = output.verdicts
        batch = output.feature
    return time.perf_counter() - started


def _macs(bundle: Bundle, last: int) -> int:
    return sum(block.macs + (block.exit.macs if block.exit else 0) for block in bundle.manifest.blocks[:last])
