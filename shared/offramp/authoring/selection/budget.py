"""Limits on the mean cost of a sample: in multiplications, in milliseconds, or in bytes to the next tier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offramp.authoring.evaluation.offloads import Offloads
from offramp.bundle import Manifest


@dataclass(frozen=True)
class Budget:
    """A limit on the mean cost of a sample.

    name: of the operating point that keeps it. unit: as messages print it. exit_costs: for each exit, the cost of a
    sample that leaves there, in that unit. spent: mean cost if the held-out samples leave at the exits with these
    indices (N,), where samples differ in what they cost at the same exit.
    """

    name: str
    limit: float
    unit: str
    exit_costs: Sequence[float]
    spent: Callable[[NDArray[np.int64]], float] | None = None


def macs_budget(manifest: Manifest, share: float) -> Budget:
    """At most this share of the backbone's multiplications."""
    return Budget(f"cost-{share:g}", share * manifest.backbone_macs, "multiplications", manifest.exit_macs)


def ms_budget(limit: float, exit_ms: Sequence[float]) -> Budget:
    """At most this many milliseconds of computing, as measured where the bundle was calibrated."""
    return Budget(_name("ms", limit), limit, "milliseconds", exit_ms)


def bytes_budget(manifest: Manifest, limit: float, offloads: Offloads | None) -> Budget:
    """At most this many bytes to the next tier, headers and framing included; a sample that stays sends none.

    Args:
        manifest: of the bundle.
        limit: mean bytes of a request.
        offloads: what each held-out sample would send; None if the bundle has a single block.
    """
    if offloads is None:
        return Budget(_name("bytes", limit), limit, "bytes", [0] * manifest.num_exits)
    sizes_N = offloads.socket_bytes
    is_behind_E = np.array(manifest.exit_blocks) >= manifest.operating_point.split_point
    exit_bytes = (is_behind_E * sizes_N.mean()).tolist()

    def spent(taken_N: NDArray[np.int64]) -> float:
        return float(np.where(is_behind_E[taken_N], sizes_N, 0).mean())

    return Budget(_name("bytes", limit), limit, "bytes", exit_bytes, spent)


def _name(unit: str, limit: float) -> str:
    # Twelve digits keep a megabyte from being written as 1e+06; a point's name cannot have a plus sign.
    return f"{unit}-{limit:.12g}".replace("+", "")
