"""Limits on the mean cost of a sample: in multiplications, in milliseconds, or in bytes to the next tier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from offramp.bundle import Manifest
from offramp.wire.codec import expected_bytes
from offramp.wire.messages import request_bytes


@dataclass(frozen=True)
class Budget:
    """A limit on the mean cost of a sample.

    name: of the operating point that keeps it. unit: as messages print it. exit_costs: for each exit, the cost of a
    sample that leaves there, in that unit.
    """

    name: str
    limit: float
    unit: str
    exit_costs: Sequence[float]


def macs_budget(manifest: Manifest, share: float) -> Budget:
    """At most this share of the backbone's multiplications."""
    return Budget(f"cost-{share:g}", share * manifest.backbone_macs, "multiplications", manifest.exit_macs)


def ms_budget(limit: float, exit_ms: Sequence[float]) -> Budget:
    """At most this many milliseconds of computing, as measured where the bundle was calibrated."""
    return Budget(_name("ms", limit), limit, "milliseconds", exit_ms)


def bytes_budget(manifest: Manifest, limit: float) -> Budget:
    """At most this many bytes to the next tier, headers and framing included; a sample that stays sends none."""
    split_point = manifest.operating_point.split_point
    sent = 0
    if manifest.blocks[split_point - 2].feature is not None:
        payload = expected_bytes(manifest.blocks[split_point - 2], manifest.codec_at(split_point))
        sent = request_bytes(manifest, split_point, round(payload))
    exit_bytes = [sent if block >= split_point else 0 for block in manifest.exit_blocks]
    return Budget(_name("bytes", limit), limit, "bytes", exit_bytes)


def _name(unit: str, limit: float) -> str:
    # Twelve digits keep a megabyte from being written as 1e+06; a point's name cannot have a plus sign.
    return f"{unit}-{limit:.12g}".replace("+", "")
