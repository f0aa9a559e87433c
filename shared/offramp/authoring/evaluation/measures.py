"""Compares confidence measures: which one best tells an exit's right answers from its wrong ones.

This needs only the probabilities, so it works for any bundle, whichever measure it was exported with.
Shapes: N samples, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from offramp.authoring.evaluation.statistics import auroc, calibration_error
from offramp.authoring.evaluation.table import ExitTable
from offramp.bundle.manifest import Manifest, Measure
from offramp.record import Record


class MeasureReport(Record):
    """One measure at one exit, at the exit's temperature."""

    exit: int
    measure: Measure
    exported: bool = Field(description="whether this exit decides by it")
    auroc: float | None = Field(
        description="of right against wrong answers; null if all are right or all wrong"
    )
    calibration_error: float


def compare_measures(
    manifest: Manifest, probabilities: NDArray[np.float32], table: ExitTable
) -> tuple[MeasureReport, ...]:
    """Compare all measures at every exit; within an exit, the best AUROC comes first.

    Args:
        manifest: of the bundle.
        probabilities: (N, E, K) of every exit.
        table: the confidence of the same exits as exported, and where they are right.
    """
    found = []
    for exit in manifest.exits:
        at = exit.number - 1
        plain = PLAIN if manifest.task.kind == "single_label" else {}
        confidences = {name: of(probabilities[:, at]) for name, of in plain.items()}
        confidences[exit.measure] = table.confidence[:, at]
        of_exit = [
            MeasureReport(
                exit=exit.number,
                measure=name,
                exported=name == exit.measure,
                auroc=auroc(confidence_N, table.correct[:, at]),
                calibration_error=calibration_error(confidence_N, table.correct[:, at]),
            )
            for name, confidence_N in confidences.items()
        ]
        found += sorted(of_exit, key=lambda one: -(one.auroc or 0.0))
    return tuple(found)


def _score_margin(probabilities_NK: NDArray[np.float32]) -> NDArray[np.float32]:
    largest = np.partition(probabilities_NK, -2, axis=1)
    margin_N: NDArray[np.float32] = largest[:, -1] - largest[:, -2]
    return margin_N


def _entropy(probabilities_NK: NDArray[np.float32]) -> NDArray[np.float32]:
    log_NK = np.log(np.maximum(probabilities_NK, np.finfo(np.float32).tiny))
    sure_N: NDArray[np.float32] = 1 + (probabilities_NK * log_NK).sum(axis=1) / math.log(
        probabilities_NK.shape[1]
    )
    return sure_N.clip(0, 1)


# The same as in offramp.authoring.networks.confidence, without torch.
PLAIN: Mapping[Measure, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
    "max_softmax": lambda probabilities_NK: probabilities_NK.max(axis=1),
    "score_margin": _score_margin,
    "entropy": _entropy,
}
