"""What an answer says and when it is right, for each task; and the measure people know each task by.

Shapes: N samples, E exits, K labels; a leading … stands for any of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from offramp.bundle import Manifest
from offramp.bundle.task import LEAST_PROBABILITY, Task
from offramp.record import Record


class Closeness(Record):
    """How close the answers come, in the measure people know a task by; accuracy only counts those that are right."""

    measure: str = Field(description="micro F1, higher is better; or mean absolute error, lower is better")
    here: float = Field(description="at this operating point")
    full: float = Field(description="if every sample went to the last exit")
    unit: str = ""


def said_of(task: Task, probabilities: NDArray[np.float32]) -> NDArray[Any]:
    """What answers (…, K) or (…, 2) say: a class (…), which labels (…, K), or a value (…)."""
    if task.kind == "regression":
        return probabilities[..., 0]
    if task.kind == "multi_label":
        return np.asarray(probabilities >= LEAST_PROBABILITY)
    return np.asarray(probabilities.argmax(axis=-1))


def is_right(task: Task, said: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether what was said (…) is right: the class, all of the labels and no other, or within the tolerance."""
    if task.quantity is not None:
        return np.asarray(np.abs(said - truth) <= task.quantity.tolerance)
    if task.kind == "multi_label":
        return np.asarray((said == truth.astype(bool)).all(axis=-1))
    return np.asarray(said == truth)


def closeness(
    task: Task, here_N: NDArray[Any], full_N: NDArray[Any], truth_N: NDArray[Any]
) -> Closeness | None:
    """How close the answers come; None for a single label, where accuracy says it all.

    Args:
        task: of the bundle.
        here_N: what the exits say at which the samples leave.
        full_N: what the full network says.
        truth_N: the truth.
    """
    if task.quantity is not None:
        here, full = (float(np.abs(said - truth_N).mean()) for said in (here_N, full_N))
        return Closeness(measure="mean absolute error", here=here, full=full, unit=task.quantity.unit)
    if task.kind == "multi_label":
        return Closeness(measure="micro F1", here=_micro_f1(here_N, truth_N), full=_micro_f1(full_N, truth_N))
    return None


def in_words(manifest: Manifest, said: Any) -> str:
    """One answer or one truth, as people read it: a label, labels separated by `;`, or a number."""
    if manifest.task.kind == "regression":
        return f"{float(said):g}"
    if manifest.task.kind == "multi_label":
        return ";".join(label for label, is_given in zip(manifest.labels, said, strict=True) if is_given)
    return manifest.labels[int(said)]


def _micro_f1(said_NK: NDArray[np.bool_], truth_NK: NDArray[Any]) -> float:
    """F1 over all pairs of a sample and a label; 1 if there is no label anywhere."""
    both = int((said_NK & truth_NK.astype(bool)).sum())
    either = int(said_NK.sum()) + int(truth_NK.sum())
    return 2 * both / either if either else 1.0
