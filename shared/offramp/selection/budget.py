"""What a mean cost may be counted in: multiplications, milliseconds, or bytes to the next tier."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from offramp.bundle import Manifest

_BYTES = {"float32": 4, "float16": 2}


@dataclass(frozen=True)
class Budget:
    """A limit on the mean cost of a sample.

    name: of the operating point that keeps it. unit: as a message says it. exit_costs: of a sample that leaves at
    each exit, in that unit.
    """

    name: str
    limit: float
    unit: str
    exit_costs: Sequence[float]


def macs_budget(manifest: Manifest, share: float) -> Budget:
    """At most this share of the backbone's multiplications."""
    return Budget(f"cost-{share:g}", share * manifest.backbone_macs, "multiplications", manifest.exit_macs)


def ms_budget(limit: float, exit_ms: Sequence[float]) -> Budget:
    """At most so many milliseconds of computing, as measured where the bundle was calibrated."""
    return Budget(_name("ms", limit), limit, "milliseconds", exit_ms)


def bytes_budget(manifest: Manifest, limit: float) -> Budget:
    """At most so many bytes of feature to the next tier: those of the point's codec, if a sample goes on."""
    point = manifest.operating_point
    last_block = manifest.blocks[point.split_point - 2]
    data_bytes = 0
    if last_block.feature is not None:
        data_bytes = math.prod(last_block.feature.shape) * _BYTES[point.codec]
    exit_bytes = [data_bytes if block >= point.split_point else 0 for block in manifest.exit_blocks]
    return Budget(_name("bytes", limit), limit, "bytes", exit_bytes)


def _name(unit: str, limit: float) -> str:
    # Twelve digits keep a megabyte from being written as 1e+06; a point's name knows no plus sign.
    return f"{unit}-{limit:.12g}".replace("+", "")
