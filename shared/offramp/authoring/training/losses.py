"""The losses that train the exits.

Shapes: B samples, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from offramp.errors import ConfigError


def joint_loss(
    logits_by_exit: Mapping[int, Tensor],
    class_B: Tensor,
    weights: Mapping[int, float],
    *,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Sum the losses of all exits, so that shallow and deep EECs are trained together.

    Args:
        logits_by_exit: logits (B, K) by exit number, as `EarlyExitNetwork.logits_at` returns them.
        class_B: class index of each sample, 0 to K - 1.
        weights: weight of each exit; need not sum to 1.
        label_smoothing: share of the target that is spread over all classes.

    Returns:
        Scalar loss in nats, averaged over the batch.

    Raises:
        ConfigError: there is not one weight for each exit.

    Source: L = Σ w_i · CE(ȳ_i, y), BranchyNet, Teerapittayanon et al. 2016, eq. 1.
    """
    _check_weights(logits_by_exit, weights)
    losses = [
        weights[number] * functional.cross_entropy(logits_BK, class_B, label_smoothing=label_smoothing)
        for number, logits_BK in logits_by_exit.items()
    ]
    return torch.stack(losses).sum()


def distillation_loss(
    logits_by_exit: Mapping[int, Tensor],
    teacher_BK: Tensor,
    class_B: Tensor,
    weights: Mapping[int, float],
    *,
    alpha: float,
    temperature: float,
) -> Tensor:
    """Pull every exit towards the teacher's softened answer.

    Args:
        logits_by_exit: logits (B, K) by exit number.
        teacher_BK: the teacher's logits; no gradient flows into them.
        class_B: class index of each sample; ignored if `alpha` is 1, so photos without labels will do.
        weights: weight of each exit.
        alpha: share of the teacher, 0 to 1; the rest is cross-entropy with the labels.
        temperature: T > 0 of the softmax on both sides.

    Returns:
        Scalar loss in nats, averaged over the batch.

    Raises:
        ConfigError: there is not one weight for each exit.

    Source: (1 - α) · CE + α · T² · KL(teacher ‖ student), Hinton et al. 2015, section 2. Because of T², the size of the
    gradients does not depend on T.
    """
    _check_weights(logits_by_exit, weights)
    target_BK = torch.log_softmax(teacher_BK.detach().float() / temperature, dim=1)
    total = torch.zeros((), device=teacher_BK.device)
    for number, logits_BK in logits_by_exit.items():
        answer_BK = torch.log_softmax(logits_BK.float() / temperature, dim=1)
        divergence = functional.kl_div(answer_BK, target_BK, reduction="batchmean", log_target=True)
        loss = alpha * temperature**2 * divergence
        if alpha < 1:
            loss = loss + (1 - alpha) * functional.cross_entropy(logits_BK, class_B)
        total = total + weights[number] * loss
    return total


def _check_weights(logits_by_exit: Mapping[int, Tensor], weights: Mapping[int, float]) -> None:
    if set(weights) != set(logits_by_exit):
        raise ConfigError(
            f"weights are for exits {sorted(weights)}, logits for exits {sorted(logits_by_exit)}; give one for each"
        )


def reconstruction_loss(found: Tensor, feature: Tensor) -> Tensor:
    """Mean squared error of a feature after a bottleneck, as a share of the feature's variance: 0 is perfect."""
    return functional.mse_loss(found.float(), feature.float()) / feature.float().var().clamp(min=1e-8)
