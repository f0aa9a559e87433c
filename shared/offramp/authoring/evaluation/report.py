"""The cost and accuracy of an operating point on labelled images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from offramp.authoring.evaluation.comparison import Alternative
from offramp.authoring.evaluation.held_out import HeldOut
from offramp.authoring.evaluation.judging import Closeness
from offramp.authoring.evaluation.measures import MeasureReport
from offramp.authoring.evaluation.offloads import Offloads
from offramp.authoring.evaluation.overthinking import Overthinking, overthinking
from offramp.authoring.evaluation.promise import Overshoot, overshoot_of
from offramp.authoring.evaluation.statistics import auroc, calibration_error, mcnemar, wilson_interval
from offramp.authoring.evaluation.table import ExitTable
from offramp.bundle import Manifest, OperatingPoint
from offramp.bundle.manifest import Layer, Measured, Payload, Share
from offramp.engine.payload import Sent
from offramp.record import Record

Interval = tuple[Share, Share]


class ExitReport(Record):
    """One exit."""

    number: int
    tier: str
    theta: float | None = Field(description="null for the last exit, which always answers")
    accuracy: Share = Field(description="if every sample left here")
    accuracy_interval: Interval = Field(description="95 %, Wilson")
    accuracy_left: Share | None = Field(description="of the samples that did leave here; null if none did")
    rate: Share = Field(description="share of samples that left here")
    macs: int = Field(description="multiplications of a sample that leaves here, EECs included")
    ms: float | None = Field(
        default=None, description="median time of such a sample with ONNX Runtime and one thread"
    )
    auroc: float | None = Field(
        description="how well confidence tells right from wrong; null if all are right or all wrong"
    )
    calibration_error: float = Field(description="how far confidence is from accuracy on average, 15 bins")


class RivalReport(Record):
    """Another network on the same images; all of them go to its last exit."""

    bundle: str
    accuracy: Share
    accuracy_interval: Interval
    macs: int = Field(description="multiplications of its backbone")
    ms: float | None = Field(default=None, description="median time of one sample")
    only_right_here: int = Field(description="samples that the bundle gets right and the rival wrong")
    only_right_there: int
    mcnemar_p: Share = Field(
        description="chance of such a difference if both were equally good; two-sided, exact"
    )


class Report(Record):
    """A bundle on one data set at one operating point."""

    bundle: str
    operating_point: str | None = Field(description="null if θ was given by hand")
    samples: int
    accuracy: Share
    accuracy_interval: Interval = Field(description="95 %, Wilson")
    full_accuracy: Share = Field(description="if every sample went to the last exit")
    full_accuracy_interval: Interval
    mcnemar_p: Share = Field(description="of the difference between this point and the full network")
    macs_mean: float
    macs_backbone: int
    macs_ratio: float = Field(description="macs_backbone / macs_mean: how many times less work")
    ms_mean: float | None = Field(
        default=None, description="average over all samples, by the exit each one takes"
    )
    offload_rate: Share
    payload: Payload = Field(default="exact", description="how a sample travels to the next tier")
    sent: dict[Sent, Share] = Field(
        default={}, description="share of the offloaded samples that travel as each of these"
    )
    payload_bytes_mean: float | None = Field(
        default=None, description="of the feature or picture that an offloaded sample travels as"
    )
    offload_bytes_mean: float | None = Field(
        default=None,
        description="of an offloaded sample on the socket, all included, if it is sent on its own",
    )
    request_bytes_mean: float | None = Field(
        default=None, description="average over all requests; those that are not offloaded send nothing"
    )
    unfamiliar_rate: Share | None = Field(
        default=None,
        description="share of samples that a guard finds unfamiliar; null if the bundle has none",
    )
    exits: tuple[ExitReport, ...]
    overthinking: Overthinking
    rivals: tuple[RivalReport, ...] = ()
    alternatives: tuple[Alternative, ...] = ()
    measures: tuple[MeasureReport, ...] = ()
    closeness: Closeness | None = Field(default=None, description="only for tasks beyond one label")
    held_out: HeldOut | None = Field(
        default=None,
        description="compared with the samples that thresholds were chosen on, if these are others",
    )
    overshoot: Overshoot | None = Field(
        default=None, description="the limit that the operating point was chosen for, if it is not kept here"
    )
    layers: tuple[Layer, ...] = Field(default=(), description="multiplications, layer by layer")


def report(
    manifest: Manifest,
    table: ExitTable,
    thetas: Sequence[float],
    *,
    split_point: int,
    name: str | None,
    exit_ms: Sequence[float] | None = None,
    offloads: Offloads | None = None,
) -> Report:
    """Report how the selection scheme does with these θ, given what every exit answers (`table`).

    Args:
        manifest: of the bundle.
        table: of labelled samples.
        thetas: one for each exit but the last.
        split_point: first block that the cloud runs.
        name: of the operating point, if these are its θ.
        exit_ms: for each exit, milliseconds of a sample that leaves there, if measured.
        offloads: what each sample would send, if known.
    """
    taken_N = table.exit_taken(thetas)
    right_N = table.correct_at(taken_N)
    macs_mean = float(np.array(manifest.exit_macs)[taken_N].mean())
    exits = tuple(
        _exit_report(manifest, table, taken_N, exit, thetas=thetas, split_point=split_point, exit_ms=exit_ms)
        for exit in range(manifest.num_exits)
    )
    offloaded_N = np.array(manifest.exit_blocks)[taken_N] >= split_point
    return Report(
        bundle=manifest.bundle_id,
        operating_point=name,
        samples=table.num_samples,
        accuracy=float(right_N.mean()),
        accuracy_interval=_interval(right_N),
        full_accuracy=float(table.full_correct.mean()),
        full_accuracy_interval=_interval(table.full_correct),
        mcnemar_p=mcnemar(right_N, table.full_correct).p_value,
        macs_mean=macs_mean,
        macs_backbone=manifest.backbone_macs,
        macs_ratio=manifest.backbone_macs / macs_mean,
        ms_mean=float(np.array(exit_ms)[taken_N].mean()) if exit_ms else None,
        offload_rate=sum(exit.rate for exit in exits if exit.tier == "cloud"),
        **(_sent(offloads, offloaded_N) if offloads else {}),
        exits=exits,
        overshoot=_overshoot(manifest, table, name, taken_N, exit_ms, _request_bytes(offloads, offloaded_N)),
        overthinking=overthinking(table, thetas, manifest.exit_macs),
        layers=manifest.layers,
    )


def _exit_report(
    manifest: Manifest,
    table: ExitTable,
    taken_N: NDArray[np.int64],
    exit: int,
    *,
    thetas: Sequence[float],
    split_point: int,
    exit_ms: Sequence[float] | None,
) -> ExitReport:
    """Report on one exit, counted from 0; `taken_N` says at which exit each sample leaves."""
    confidence_N, correct_N, left_N = table.confidence[:, exit], table.correct[:, exit], taken_N == exit
    return ExitReport(
        number=exit + 1,
        tier="edge" if manifest.exit_blocks[exit] < split_point else "cloud",
        theta=thetas[exit] if exit < len(thetas) else None,
        accuracy=float(correct_N.mean()),
        accuracy_interval=_interval(correct_N),
        accuracy_left=float(correct_N[left_N].mean()) if left_N.any() else None,
        rate=float(left_N.mean()),
        macs=manifest.exit_macs[exit],
        ms=exit_ms[exit] if exit_ms else None,
        auroc=auroc(confidence_N, correct_N),
        calibration_error=calibration_error(confidence_N, correct_N),
    )


def _request_bytes(offloads: Offloads | None, offloaded_N: NDArray[np.bool_]) -> NDArray[np.float64] | None:
    return None if offloads is None else np.where(offloaded_N, offloads.socket_bytes, 0.0)


def _overshoot(
    manifest: Manifest,
    table: ExitTable,
    name: str | None,
    taken_N: NDArray[np.int64],
    exit_ms: Sequence[float] | None,
    request_bytes_N: NDArray[np.float64] | None,
) -> Overshoot | None:
    spent = {"cost": np.array(manifest.exit_macs)[taken_N] / manifest.backbone_macs}
    if exit_ms:
        spent["ms"] = np.array(exit_ms)[taken_N]
    if request_bytes_N is not None:
        spent["bytes"] = request_bytes_N
    return overshoot_of(
        name, right_N=table.correct_at(taken_N), full_right_N=table.full_correct, spent_N=spent
    )


def _sent(offloads: Offloads, offloaded_N: NDArray[np.bool_]) -> dict[str, Any]:
    found: dict[str, Any] = {"payload": offloads.payload, "request_bytes_mean": 0.0}
    if offloaded_N.any():
        found |= {
            "sent": offloads.shares(offloaded_N),
            "payload_bytes_mean": float(offloads.payload_bytes[offloaded_N].mean()),
            "offload_bytes_mean": float(offloads.socket_bytes[offloaded_N].mean()),
            "request_bytes_mean": float(np.where(offloaded_N, offloads.socket_bytes, 0).mean()),
        }
    return found


def rival_report(
    manifest: Manifest, right_N: NDArray[np.bool_], rival_right_N: NDArray[np.bool_], *, ms: float | None
) -> RivalReport:
    """Compare a rival's answers with ours, sample by sample.

    Args:
        manifest: the rival's.
        right_N: which samples the evaluated bundle gets right at its operating point.
        rival_right_N: which samples the rival's last exit gets right.
        ms: milliseconds that the rival takes for a sample, if measured.
    """
    compared = mcnemar(right_N, rival_right_N)
    return RivalReport(
        bundle=manifest.bundle_id,
        accuracy=float(rival_right_N.mean()),
        accuracy_interval=_interval(rival_right_N),
        macs=manifest.backbone_macs,
        ms=ms,
        only_right_here=compared.only_first,
        only_right_there=compared.only_second,
        mcnemar_p=compared.p_value,
    )


def _interval(right_N: NDArray[np.bool_]) -> Interval:
    return wilson_interval(int(right_N.sum()), len(right_N))


def measured(
    manifest: Manifest,
    table: ExitTable,
    point: OperatingPoint,
    *,
    exit_ms: Sequence[float] | None = None,
    offloads: Offloads | None = None,
) -> OperatingPoint:
    """The operating point, with its cost and accuracy on these samples."""
    found = report(
        manifest,
        table,
        point.thetas,
        split_point=point.split_point,
        name=point.name,
        exit_ms=exit_ms,
        offloads=offloads,
    )
    measured = Measured(
        samples=found.samples,
        accuracy=found.accuracy,
        exit_rates=tuple(exit.rate for exit in found.exits),
        macs_mean=found.macs_mean,
        ms_mean=found.ms_mean,
        request_bytes_mean=found.request_bytes_mean,
        offload_rate=min(found.offload_rate, 1.0),
    )
    return point.model_copy(update={"measured": measured})
