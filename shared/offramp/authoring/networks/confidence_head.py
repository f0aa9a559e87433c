"""Fits the confidence head of an exit: a logistic regression of "is it right?" on the plain measures.

A head has three weights and a bias, so a few samples are enough to fit it, and too little to memorise them. Unlike a
temperature, it can change the ranking of samples. Shapes: N samples, K classes, M plain measures.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from offramp.authoring.networks.confidence import ConfidenceHead, plain_measures

# The measures are strongly correlated: without a little decay, their weights would grow large and cancel out.
_DECAY = 1e-3
_STEPS = 100


def fit_confidence_head(logits_NK: NDArray[np.float32], classes_N: NDArray[np.int64]) -> ConfidenceHead:
    """The head with the lowest cross-entropy between its confidence and whether the exit is right.

    Args:
        logits_NK: of held-out samples.
        classes_N: their true classes.
    """
    measures_NM = plain_measures(torch.from_numpy(logits_NK)).double()
    right_N = torch.from_numpy(logits_NK.argmax(axis=1) == classes_N).double()
    mean_M, spread_M = measures_NM.mean(dim=0), measures_NM.std(dim=0).clamp(min=1e-6)
    scaled_NM = (measures_NM - mean_M) / spread_M
    parameters = torch.zeros(scaled_NM.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([parameters], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        score_N = scaled_NM @ parameters[:-1] + parameters[-1]
        value = functional.binary_cross_entropy_with_logits(score_N, right_N)
        value = (
            value + _DECAY * parameters.square().sum()
        )  # decay the bias too, or it would grow without limit if all are right
        value.backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call] # as above
    weights_M = parameters.detach()[:-1] / spread_M
    bias = float(parameters.detach()[-1] - weights_M @ mean_M)
    max_softmax, score_margin, entropy = weights_M.tolist()
    return ConfidenceHead((max_softmax, score_margin, entropy), bias)
