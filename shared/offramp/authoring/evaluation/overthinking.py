"""Overthinking: samples that an early exit gets right and the last exit wrong, and how many of them we win back.

Source: Kaya, Hong and Dumitraş 2019, "Shallow-Deep Networks". Shapes: N samples, E exits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from offramp.authoring.evaluation.table import ExitTable
from offramp.bundle.manifest import Share
from offramp.record import Record


class Overthinking(Record):
    """Shares of all samples."""

    destroyed: Share = Field(description="an earlier exit is right, the last one wrong")
    won_back: Share = Field(description="the last exit is wrong, the one taken at this operating point right")
    spoilt: Share = Field(description="the last exit is right, the one taken at this operating point wrong")
    oracle_accuracy: Share = Field(description="of an oracle that leaves at the first exit that is right")
    oracle_macs_mean: float = Field(
        description="multiplications of this oracle, on average; if no exit is right, it goes to the last"
    )


def overthinking(table: ExitTable, thetas: Sequence[float], exit_macs: Sequence[int]) -> Overthinking:
    """Compare the selection scheme with an oracle that always stops in time."""
    last_N, any_N = table.correct[:, -1], table.correct.any(axis=1)
    right_N = table.correct_at(table.exit_taken(thetas))
    in_time_N = np.where(any_N, table.correct.argmax(axis=1), table.num_exits - 1)
    return Overthinking(
        destroyed=float((any_N & ~last_N).mean()),
        won_back=float((right_N & ~last_N).mean()),
        spoilt=float((last_N & ~right_N).mean()),
        oracle_accuracy=float(any_N.mean()),
        oracle_macs_mean=float(np.array(exit_macs)[in_time_N].mean()),
    )
