"""Finds thresholds gate by gate, as in Gate-Classification networks.

The literature does not publish its exact rule; this one is ours. There is no joint search: a gate looks only at the
samples that reach it, and takes the smallest θ at which it can be trusted not to spoil the samples it accepts.
"""

from __future__ import annotations

import numpy as np

from offramp.authoring.evaluation.table import ExitTable
from offramp.authoring.selection.choice import candidates_of
from offramp.authoring.selection.guarantee import binomial_p_value

_STEPS = 201


def gate_thetas(table: ExitTable, *, tolerance: float, delta: float = 0.05) -> tuple[float, ...]:
    """θ of every gate: the smallest at which it spoils at most a share `tolerance` of what it accepts.

    A sample is spoilt if the full network gets it right and the gate wrong. The share is judged by its upper
    confidence bound (Clopper and Pearson 1934), so a gate with few samples has to be stricter. The bound holds for one
    θ, not for the smallest of many; for a real guarantee, use `offramp calibrate --guarantee`.

    Args:
        table: of held-out samples; `correct` is judged by their classes.
        tolerance: 0 to 1, for each gate.
        delta: 1 - level of the bound.

    Returns:
        θ of all exits but the last; 1, which never stops, where no other θ will do.
    """
    harmless = table.correct | ~table.full_correct[:, np.newaxis]
    reaches_N = np.ones(table.num_samples, dtype=bool)
    thetas = []
    for exit in range(table.num_exits - 1):
        confidence_N, harmless_N = table.confidence[reaches_N, exit], harmless[reaches_N, exit]
        thetas.append(_smallest(confidence_N, harmless_N, tolerance, delta))
        reaches_N &= table.confidence[:, exit] < np.float32(thetas[-1])
    return tuple(thetas)


def _smallest(confidence_N: np.ndarray, harmless_N: np.ndarray, tolerance: float, delta: float) -> float:
    if not len(confidence_N):
        return 1.0
    if tolerance >= 1:
        return 0.0  # all may be spoilt
    for theta in candidates_of(confidence_N, _STEPS):
        accepted_N = confidence_N >= theta
        accepted, spoilt = int(accepted_N.sum()), int((accepted_N & ~harmless_N).sum())
        if accepted and tolerance > 0 and binomial_p_value(spoilt, accepted, tolerance) <= delta:
            return float(theta)
    return 1.0
