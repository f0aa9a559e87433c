"""One temperature for each exit, so that its confidence matches how often it is right.

Source: Guo et al. 2017, section 4.2: T divides the logits and minimises the negative log-likelihood of held-out
samples. It changes no answer. Shapes: N samples, K classes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.bundle.task import LEAST_STD, SINGLE_LABEL, Quantity, Task

_RANGE = (0.05, 20.0)
_TOLERANCE = 1e-7  # of ln T


def fit_temperature(
    logits_NK: NDArray[np.float32], truth_N: NDArray[Any], task: Task = SINGLE_LABEL
) -> float:
    """T in [0.05, 20] with the lowest negative log-likelihood.

    Args:
        logits_NK: of held-out samples. Log-probabilities of classes work too: they differ by a constant.
        truth_N: their true classes, labels (N, K) or values.
        task: of the network.
    """
    if task.quantity is not None:
        return _fit_spread(logits_NK, truth_N, task.quantity)
    loss = _labels_loss if task.kind == "multi_label" else negative_log_likelihood
    from scipy.optimize import minimize_scalar  # imported here because it takes a third of a second

    found = minimize_scalar(
        lambda log_t: loss(logits_NK, truth_N, math.exp(log_t)),
        bounds=(math.log(_RANGE[0]), math.log(_RANGE[1])),
        options={"xatol": _TOLERANCE},
    )
    return math.exp(found.x)


def negative_log_likelihood(
    logits_NK: NDArray[np.float32], classes_N: NDArray[np.int64], temperature: float
) -> float:
    """Mean of -ln p of the true class, in nats, at this temperature."""
    scaled = logits_NK.astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    true_N = scaled[np.arange(len(scaled)), classes_N]
    return float((np.log(np.exp(scaled).sum(axis=1)) - true_N).mean())


def _labels_loss(logits_NK: NDArray[np.float32], given_NK: NDArray[np.uint8], temperature: float) -> float:
    """Mean binary cross-entropy over all pairs of a sample and a label, in nats."""
    scaled = logits_NK.astype(np.float64) / temperature
    return float((np.logaddexp(0, scaled) - scaled * given_NK).mean())


def _fit_spread(outputs_N2: NDArray[np.float32], value_N: NDArray[np.float32], quantity: Quantity) -> float:
    """The factor of the standard deviation that the errors ask for: the likelihood is highest at their mean square."""
    error_N = outputs_N2[:, 0] - (value_N - quantity.middle) / quantity.half_range
    std_N = np.logaddexp(0, outputs_N2[:, 1].astype(np.float64)) + LEAST_STD
    found = math.sqrt(float(np.square(error_N / std_N).mean()))
    return min(max(found, _RANGE[0]), _RANGE[1])
