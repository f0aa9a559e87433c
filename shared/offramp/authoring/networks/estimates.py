"""From what an EEC returns to an answer and its confidence, for tasks beyond one label.

Like the confidence measures, these are compiled into a block's graph. Shapes: B samples, K labels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from offramp.bundle.task import LEAST_STD, Quantity


def labels_estimate(logits_BK: Tensor) -> tuple[Tensor, Tensor]:
    """The probability of each label by itself, and how sure the least sure of them is.

    Args:
        logits_BK: an EEC's output.

    Returns:
        Probabilities (B, K), and confidence (B,): 0 if a label is as likely as not, 1 if all are certain.
    """
    probabilities_BK = logits_BK.sigmoid()
    return probabilities_BK, (2 * (probabilities_BK - 0.5).abs()).amin(dim=1)


def value_estimate(
    outputs_B2: Tensor, quantity: Quantity, *, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """A value with its standard deviation, and the chance that it is off by at most the tolerance.

    Args:
        outputs_B2: an EEC's output; see `scaled_estimate`.
        quantity: what is estimated.
        temperature: factor of the standard deviation; above 1 it corrects an overconfident EEC.

    Returns:
        Value and standard deviation (B, 2) in the quantity's unit, and confidence (B,): P(|error| ≤ tolerance) of a
        normal distribution.
    """
    mean_B, scaled_B = scaled_estimate(outputs_B2)
    value_B = quantity.middle + quantity.half_range * mean_B
    std_B = quantity.half_range * temperature * scaled_B
    confidence_B = torch.erf(quantity.tolerance / (math.sqrt(2) * std_B))
    return torch.stack([value_B, std_B], dim=1), confidence_B


def scaled_estimate(outputs_B2: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (B,) of the quantity, where the middle of its range is 0 and its half width 1."""
    return outputs_B2[:, 0], functional.softplus(outputs_B2[:, 1]) + LEAST_STD
