"""Other ways to use the same exits, for comparison only: nodes serve none of them.

Shapes: N samples, E exits, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from offramp.bundle.manifest import Share
from offramp.record import Record


class Alternative(Record):
    """What another scheme achieves with the same exits."""

    scheme: str
    accuracy: Share
    macs_mean: float = Field(description="multiplications per sample, on average")


def alternatives(
    probabilities: NDArray[np.float32],
    classes_N: NDArray[np.int64],
    exit_macs: Sequence[int],
    *,
    aggregates: bool = False,
) -> tuple[Alternative, ...]:
    """Evaluate patience, and the aggregation of all exits, which always runs the whole network.

    Args:
        probabilities: (N, E, K) of every exit.
        classes_N: the true classes.
        exit_macs: for each exit, multiplications of a sample that leaves there.
        aggregates: whether the last exit already aggregates all exits; then only patience is evaluated.
    """
    if aggregates:
        return tuple(_patient(probabilities.argmax(axis=2), classes_N, exit_macs))
    depth_E = np.arange(1, probabilities.shape[1] + 1, dtype=np.float64)
    logs = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
    together = {
        "mean of all exits": probabilities.mean(axis=1),
        "mean, weighted by depth": np.tensordot(probabilities, depth_E, axes=(1, 0)),
        "geometric mean": logs.mean(axis=1),
    }
    found = [
        Alternative(
            scheme=name,
            accuracy=float((score_NK.argmax(axis=1) == classes_N).mean()),
            macs_mean=float(exit_macs[-1]),
        )
        for name, score_NK in together.items()
    ]
    return (*found, *_patient(probabilities.argmax(axis=2), classes_N, exit_macs))


def patience_taken(class_index: NDArray[np.int64], agreeing: int) -> NDArray[np.int64]:
    """Index (N,) of the first exit at which `agreeing` exits in a row have agreed, or of the last exit if none has.

    Source: PABEE, Zhou et al. 2020. Their patience t counts the agreements, so it is `agreeing` - 1.
    """
    row_N, taken_N = np.ones(len(class_index), dtype=np.int64), np.full(len(class_index), -1)
    for exit in range(class_index.shape[1]):
        if exit:
            row_N = np.where(class_index[:, exit] == class_index[:, exit - 1], row_N + 1, 1)
        taken_N = np.where((taken_N < 0) & (row_N >= agreeing), exit, taken_N)
    result: NDArray[np.int64] = np.where(taken_N < 0, class_index.shape[1] - 1, taken_N)
    return result


def _patient(
    class_index: NDArray[np.int64], classes_N: NDArray[np.int64], exit_macs: Sequence[int]
) -> list[Alternative]:
    found = []
    for agreeing in range(2, class_index.shape[1] + 1):
        taken_N = patience_taken(class_index, agreeing)
        right_N = class_index[np.arange(len(taken_N)), taken_N] == classes_N
        found.append(
            Alternative(
                scheme=f"patience, {agreeing} agreeing exits",
                accuracy=float(right_N.mean()),
                macs_mean=float(np.array(exit_macs)[taken_N].mean()),
            )
        )
    return found
