"""Fits the confidence head of an exit: a logistic regression on numbers that describe its answers.

A head has a dozen weights at most, so a few samples are enough to fit it, and too little to memorise them; a multilayer
perceptron with the same inputs was no better. Unlike a temperature, a head can change the ranking of samples. Shapes:
N samples, K classes, M inputs of the head.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from offramp.authoring.networks.confidence import ConfidenceHead, head_inputs
from offramp.bundle.manifest import Measure

# The inputs are strongly correlated: without a little decay, their weights would grow large and cancel out.
_DECAY = 1e-3
_STEPS = 100


def fit_confidence_head(logits_NK: NDArray[np.float32], classes_N: NDArray[np.int64]) -> ConfidenceHead:
    """The head of `learned`, with the lowest cross-entropy between its confidence and whether the exit is right.

    Args:
        logits_NK: of held-out samples.
        classes_N: their true classes.
    """
    return _fitted("learned", logits_NK, logits_NK.argmax(axis=1) == classes_N)


def fit_failure_head(
    logits_NK: NDArray[np.float32], classes_N: NDArray[np.int64], full_N: NDArray[np.bool_]
) -> ConfidenceHead:
    """The head of `failure`: the same for whether leaving at the exit costs nothing.

    Source: after early-exit failure prediction (Kubaty et al. 2025, "Rethinking Calibration for Early-Exit Neural
    Networks"), where an exit is judged by how it ranks samples, and only those count that further blocks would mend.
    They train the exits for it; we fit a head and leave the answers as they are.

    Args:
        logits_NK: of held-out samples.
        classes_N: their true classes.
        full_N: where the whole network is right.
    """
    return _fitted("failure", logits_NK, (logits_NK.argmax(axis=1) == classes_N) | ~full_N)


def _fitted(measure: Measure, logits_NK: NDArray[np.float32], wanted: NDArray[np.bool_]) -> ConfidenceHead:
    inputs_NM = head_inputs(measure, torch.from_numpy(logits_NK)).double()
    wanted_N = torch.from_numpy(wanted).double()
    mean_M, spread_M = inputs_NM.mean(dim=0), inputs_NM.std(dim=0).clamp(min=1e-6)
    scaled_NM = (inputs_NM - mean_M) / spread_M
    parameters = torch.zeros(scaled_NM.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([parameters], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        score_N = scaled_NM @ parameters[:-1] + parameters[-1]
        value = functional.binary_cross_entropy_with_logits(score_N, wanted_N)
        value = (
            value + _DECAY * parameters.square().sum()
        )  # decay the bias too, or it would grow without limit if all are right
        value.backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call] # as above
    weights_M = parameters.detach()[:-1] / spread_M
    bias = float(parameters.detach()[-1] - weights_M @ mean_M)
    return ConfidenceHead(tuple(weights_M.tolist()), bias)
