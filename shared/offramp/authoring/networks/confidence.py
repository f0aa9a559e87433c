"""Confidence measures: logits -> a number in [0, 1), larger is more confident.

They are computed in torch, so the exporter compiles them into a block's graph; serving only reads the result.
The upper end is open on purpose: a confidence never reaches 1, so θ = 1 never stops and θ = 0 always does.
Shapes: B samples, K classes, M plain measures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from offramp.bundle.manifest import Measure
from offramp.errors import ConfigError

_BELOW_ONE = 1.0 - 2.0**-24  # the largest float32 below 1


@dataclass(frozen=True)
class ConfidenceHead:
    """A learned measure: the chance that the exit is right, σ(w · m + b), from the plain measures m of its answer.

    weights: one for each of max softmax, score margin and entropy, in this order.
    """

    weights: tuple[float, float, float]
    bias: float


@dataclass(frozen=True)
class Confidence:
    """How an exit computes its confidence.

    measure: a plain one, or `learned`, which needs `head`.
    temperature: divides the logits; above 1 it corrects an overconfident EEC (Guo et al. 2017, eq. 9).
    """

    measure: Measure = "max_softmax"
    temperature: float = 1.0
    head: ConfidenceHead | None = None

    def __post_init__(self) -> None:
        if (self.measure == "learned") != (self.head is not None):
            raise ConfigError("the measure 'learned' needs a confidence head, and no other measure takes one")

    def of(self, logits_BK: Tensor) -> tuple[Tensor, Tensor]:
        """Class probabilities and their confidence.

        Args:
            logits_BK: an EEC's output.

        Returns:
            Probabilities (B, K) that sum to 1, and confidence (B,) in [0, 1).
        """
        log_probabilities_BK = torch.log_softmax(logits_BK / self.temperature, dim=1)
        probabilities_BK = log_probabilities_BK.exp()
        if self.head is None:
            confidence_B = _PLAIN[self.measure](probabilities_BK, log_probabilities_BK)
        else:
            weights_M = torch.tensor(self.head.weights, dtype=logits_BK.dtype)
            score_B = plain_measures(logits_BK / self.temperature) @ weights_M + self.head.bias
            confidence_B = score_B.sigmoid()
        return probabilities_BK, confidence_B.clamp(0.0, _BELOW_ONE)


def plain_measures(logits_BK: Tensor) -> Tensor:
    """Max softmax, score margin and entropy of each sample, (B, 3)."""
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


_PLAIN: Mapping[Measure, Callable[[Tensor, Tensor], Tensor]] = {
    "max_softmax": _max_softmax,
    "score_margin": _score_margin,
    "entropy": _entropy,
}
