"""What an operating point costs and gives on labelled images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from offramp.bundle import Manifest, OperatingPoint
from offramp.bundle.manifest import Measured, Record, Share
from offramp.evaluation.table import ExitTable


class ExitReport(Record):
    """One exit."""

    number: int
    tier: str
    theta: float | None = Field(description="null for the last exit, which always answers")
    accuracy: Share = Field(description="had every sample left here")
    accuracy_left: Share | None = Field(description="of the samples that did leave here; null if none did")
    rate: Share = Field(description="share of samples that left here")
    macs: int = Field(description="multiplications of a sample that leaves here, EECs on its way included")


class Report(Record):
    """A bundle on one data set at one operating point."""

    bundle: str
    operating_point: str | None = Field(description="null when θ were given by hand")
    samples: int
    accuracy: Share
    full_accuracy: Share = Field(description="had every sample gone to the last exit")
    macs_mean: float
    macs_backbone: int
    macs_ratio: float = Field(description="macs_backbone / macs_mean: how many times less work")
    offload_rate: Share
    exits: tuple[ExitReport, ...]


def report(
    manifest: Manifest, table: ExitTable, thetas: Sequence[float], *, split_point: int, name: str | None
) -> Report:
    """Sum up what every exit said (`table`) as the selection scheme with these θ would have answered it."""
    taken_N = table.exit_taken(thetas)
    right_N = table.correct[np.arange(table.num_samples), taken_N]
    macs_mean = float(np.array(manifest.exit_macs)[taken_N].mean())
    exits = []
    for exit, block in enumerate(manifest.exit_blocks):
        left_N = taken_N == exit
        exits.append(
            ExitReport(
                number=exit + 1,
                tier="edge" if block < split_point else "cloud",
                theta=thetas[exit] if exit < len(thetas) else None,
                accuracy=float(table.correct[:, exit].mean()),
                accuracy_left=float(right_N[left_N].mean()) if left_N.any() else None,
                rate=float(left_N.mean()),
                macs=manifest.exit_macs[exit],
            )
        )
    return Report(
        bundle=manifest.bundle_id,
        operating_point=name,
        samples=table.num_samples,
        accuracy=float(right_N.mean()),
        full_accuracy=float(table.correct[:, -1].mean()),
        macs_mean=macs_mean,
        macs_backbone=manifest.backbone_macs,
        macs_ratio=manifest.backbone_macs / macs_mean,
        offload_rate=sum(exit.rate for exit in exits if exit.tier == "cloud"),
        exits=tuple(exits),
    )


def measured(manifest: Manifest, table: ExitTable, point: OperatingPoint) -> OperatingPoint:
    """The operating point with what it does on these samples."""
    found = report(manifest, table, point.thetas, split_point=point.split_point, name=point.name)
    measured = Measured(
        samples=found.samples,
        accuracy=found.accuracy,
        exit_rates=tuple(exit.rate for exit in found.exits),
        macs_mean=found.macs_mean,
        offload_rate=min(found.offload_rate, 1.0),
    )
    return point.model_copy(update={"measured": measured})
