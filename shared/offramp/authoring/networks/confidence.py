"""Confidence measures: logits -> a number in [0, 1), larger is more confident.

They are computed in torch, so the exporter compiles them into a block's graph; serving only reads the result.
The upper end is open on purpose: a confidence never reaches 1, so θ = 1 never stops and θ = 0 always does.
Shapes: B samples, K classes, M inputs of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from offramp.authoring.networks.estimates import labels_estimate, value_estimate
from offramp.bundle.manifest import Measure
from offramp.bundle.task import SINGLE_LABEL, Kind, Task
from offramp.errors import ConfigError

_BELOW_ONE = 1.0 - 2.0**-24  # the largest float32 below 1
_TOP = 5  # classes that the failure predictor looks at
_LEAST_LOG = -15.0  # of a probability that it looks at; what is less likely makes no difference


@dataclass(frozen=True)
class ConfidenceHead:
    """A fitted measure: a chance, σ(w · m + b), from numbers m that describe the exit's answer.

    weights: one for each number that `head_inputs` returns for the measure.
    """

    weights: tuple[float, ...]
    bias: float


@dataclass(frozen=True)
class Confidence:
    """How an exit computes its confidence.

    measure: one that fits the task: a plain one, or one that needs `head`: `learned`, the chance that the exit is
        right; or `failure`, the chance that leaving here costs nothing, because the exit is right or the whole network
        is wrong too.
    temperature: divides the logits; above 1 it corrects an overconfident EEC (Guo et al. 2017, eq. 9). In a regression
        it multiplies the standard deviation.
    """

    measure: Measure = "max_softmax"
    temperature: float = 1.0
    head: ConfidenceHead | None = None
    task: Task = SINGLE_LABEL

    def __post_init__(self) -> None:
        check_measure(self.measure, self.task)
        if (self.measure in _HEADED) != (self.head is not None):
            raise ConfigError(
                f"the measures {' and '.join(_HEADED)} need a confidence head, and no other measure takes one; this is "
                f"{self.measure} {'with' if self.head else 'without'} a head"
            )

    def of(self, logits_BK: Tensor) -> tuple[Tensor, Tensor]:
        """An exit's answer and its confidence.

        Args:
            logits_BK: an EEC's output.

        Returns:
            The answer that `Task` describes, (B, K) or (B, 2), and confidence (B,) in [0, 1).
        """
        if self.task.kind == "multi_label":
            probabilities_BK, confidence_B = labels_estimate(logits_BK / self.temperature)
            return probabilities_BK, confidence_B.clamp(0.0, _BELOW_ONE)
        if self.task.quantity is not None:
            value_B2, confidence_B = value_estimate(
                logits_BK, self.task.quantity, temperature=self.temperature
            )
            return value_B2, confidence_B.clamp(0.0, _BELOW_ONE)
        log_probabilities_BK = torch.log_softmax(logits_BK / self.temperature, dim=1)
        probabilities_BK = log_probabilities_BK.exp()
        if self.head is None:
            confidence_B = _PLAIN[self.measure](probabilities_BK, log_probabilities_BK)
        else:
            weights_M = torch.tensor(self.head.weights, dtype=logits_BK.dtype)
            score_B = head_inputs(self.measure, logits_BK / self.temperature) @ weights_M + self.head.bias
            confidence_B = score_B.sigmoid()
        return probabilities_BK, confidence_B.clamp(0.0, _BELOW_ONE)


def measure_of(task: Task, asked: Measure | None = None) -> Measure:
    """The measure asked for, or else the usual one of a task.

    Raises:
        ConfigError: the measure asked for does not fit the task.
    """
    if asked is None:
        return _USUAL[task.kind]
    check_measure(asked, task)
    return asked


def check_measure(measure: Measure, task: Task) -> None:
    """Check that a measure fits a task.

    Raises:
        ConfigError: it reads something else than the task's answers.
    """
    others = {usual for kind, usual in _USUAL.items() if kind != "single_label"}
    if (measure in others) if task.kind == "single_label" else (measure != _USUAL[task.kind]):
        raise ConfigError(
            f"the measure '{measure}' does not fit the task {task.kind}, whose usual one is '{_USUAL[task.kind]}'; "
            "leave out --measure"
        )


def head_inputs(measure: Measure, logits_BK: Tensor) -> Tensor:
    """What the head of a fitted measure looks at (B, M).

    For `learned`, these are max softmax, score margin and entropy; for `failure`, the probabilities of the five
    likeliest classes, their logarithms, and entropy.
    """
    return _HEADED[measure](logits_BK)


def _likeliest(logits_BK: Tensor) -> Tensor:
    log_probabilities_BK = torch.log_softmax(logits_BK, dim=1)
    top = log_probabilities_BK.topk(min(_TOP, logits_BK.shape[1]), dim=1).values
    entropy_B = _entropy(log_probabilities_BK.exp(), log_probabilities_BK)
    return torch.cat([top.exp(), top.clamp(min=_LEAST_LOG), entropy_B.unsqueeze(1)], dim=1)


def _plain_measures(logits_BK: Tensor) -> Tensor:
    log_probabilities_BK = torch.log_softmax(logits_BK, dim=1)
    probabilities_BK = log_probabilities_BK.exp()
    return torch.stack([of(probabilities_BK, log_probabilities_BK) for of in _PLAIN.values()], dim=1)


def _max_softmax(probabilities_BK: Tensor, _: Tensor) -> Tensor:
    return probabilities_BK.amax(dim=1)


def _score_margin(probabilities_BK: Tensor, _: Tensor) -> Tensor:
    top_B2 = probabilities_BK.topk(2, dim=1).values
    return top_B2[:, 0] - top_B2[:, 1]


def _entropy(probabilities_BK: Tensor, log_probabilities_BK: Tensor) -> Tensor:
    # BranchyNet (eq. 2) stops below an entropy in nats; with 1 - H / ln K all measures stop above θ.
    # 0 · ln 0 must give 0; with a logarithm of -inf it would be NaN.
    finite_BK = log_probabilities_BK.clamp(min=torch.finfo(log_probabilities_BK.dtype).min)
    entropy_B = -(probabilities_BK * finite_BK).sum(dim=1)
    return 1.0 - entropy_B / math.log(probabilities_BK.shape[1])


_USUAL: Mapping[Kind, Measure] = {
    "single_label": "max_softmax",
    "multi_label": "least_sure",
    "regression": "within_tolerance",
}
_PLAIN: Mapping[Measure, Callable[[Tensor, Tensor], Tensor]] = {
    "max_softmax": _max_softmax,
    "score_margin": _score_margin,
    "entropy": _entropy,
}
_HEADED: Mapping[Measure, Callable[[Tensor], Tensor]] = {"learned": _plain_measures, "failure": _likeliest}
