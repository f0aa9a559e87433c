"""Fits how the exits of a network compute their confidence, on held-out samples. Shapes: N samples, K classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from offramp.authoring.evaluation.judging import is_right, said_of
from offramp.authoring.evaluation.table import ExitTable
from offramp.authoring.networks.confidence import Confidence
from offramp.authoring.networks.confidence_head import fit_confidence_head, fit_failure_head
from offramp.authoring.selection.temperature import fit_temperature
from offramp.bundle.manifest import Measure
from offramp.bundle.task import SINGLE_LABEL, Task
from offramp.errors import ConfigError


def fitted_confidences(
    measure: Measure,
    logits: Sequence[NDArray[np.float32]],
    truth_N: NDArray[Any],
    *,
    task: Task = SINGLE_LABEL,
    aggregates: bool = False,
) -> list[Confidence]:
    """A confidence for every exit, shallow to deep: with a head for `learned` and `failure`, or with a temperature.

    Args:
        measure: the same for all exits.
        logits: (N, K) of every exit, of held-out samples that no guarantee is tested on.
        truth_N: their true classes, labels (N, K) or values.
        task: of the network.
        aggregates: whether the whole network answers with the geometric mean of all exits.

    Raises:
        ConfigError: the confidence of an early exit is not a number, or the same for all samples; or there is no
            failure to learn from.
    """
    if task.kind == "single_label":
        found = _of_classes(measure, logits, truth_N, aggregates=aggregates)
    else:
        found = [Confidence(measure, fit_temperature(each, truth_N, task), task=task) for each in logits]
    answers = [how.of(torch.from_numpy(each)) for how, each in zip(found, logits, strict=True)]
    right = [is_right(task, said_of(task, answer.numpy()), truth_N) for answer, _ in answers]
    confidences = [confidence_N.numpy() for _, confidence_N in answers]
    ExitTable(np.stack(confidences, axis=1), np.stack(right, axis=1)).check_confidences()
    return found


def _of_classes(
    measure: Measure,
    logits: Sequence[NDArray[np.float32]],
    classes_N: NDArray[np.int64],
    *,
    aggregates: bool,
) -> list[Confidence]:
    right = np.stack([logits_NK.argmax(axis=1) == classes_N for logits_NK in logits], axis=1)
    # The last exit always answers, so leaving there can only be right or wrong.
    full_N = _mean_class(logits) == classes_N if aggregates else right[:, -1]
    whole = [full_N] * (len(logits) - 1) + [np.ones_like(full_N)]
    if measure == "failure":
        _check_some_fail(right, full_N)
    match measure:
        case "learned":
            return [Confidence(measure, head=fit_confidence_head(each, classes_N)) for each in logits]
        case "failure":
            heads = [
                fit_failure_head(each, classes_N, full) for each, full in zip(logits, whole, strict=True)
            ]
            return [Confidence(measure, head=head) for head in heads]
        case _:
            return [Confidence(measure, fit_temperature(each, classes_N)) for each in logits]


def _check_some_fail(right: NDArray[np.bool_], full_N: NDArray[np.bool_]) -> None:
    for number, right_N in enumerate(right.T[:-1], start=1):
        if (right_N | ~full_N).all():
            raise ConfigError(
                f"leaving at exit {number} costs nothing for any of {len(right)} held-out samples, so there is no "
                "failure to learn from; hold out more, or choose another --measure"
            )


def _mean_class(logits: Sequence[NDArray[np.float32]]) -> NDArray[np.int64]:
    logs = [torch.log_softmax(torch.from_numpy(logits_NK), dim=1) for logits_NK in logits]
    classes_N: NDArray[np.int64] = torch.stack(logs).mean(dim=0).argmax(dim=1).numpy()
    return classes_N
