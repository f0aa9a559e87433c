"""The losses that train the exits.

Shapes: B samples, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from offramp.authoring.training.criteria import Criterion
from offramp.errors import ConfigError

_OWN_TEMPERATURE = 2.0  # the deepest exit is trained on labels too, so its answer needs little softening


def joint_loss(
    logits_by_exit: Mapping[int, Tensor],
    target: Tensor,
    weights: Mapping[int, float],
    *,
    criterion: Criterion | None = None,
) -> Tensor:
    """Sum the losses of all exits, so that shallow and deep EECs are trained together.

    Args:
        logits_by_exit: logits (B, K) by exit number, as `EarlyExitNetwork.logits_at` returns them.
        target: the truth of each sample, as the criterion takes it.
        weights: weight of each exit; need not sum to 1.
        criterion: the loss of one exit; plain cross-entropy of exclusive classes unless given.

    Returns:
        Scalar loss in nats, averaged over the batch.

    Raises:
        ConfigError: there is not one weight for each exit.

    Source: L = Σ w_i · CE(ȳ_i, y), BranchyNet, Teerapittayanon et al. 2016, eq. 1.
    """
    _check_weights(logits_by_exit, weights)
    criterion = criterion or Criterion()
    losses = [
        weights[number] * criterion.labelled(logits_BK, target)
        for number, logits_BK in logits_by_exit.items()
    ]
    return torch.stack(losses).sum()


def self_taught_loss(
    logits_by_exit: Mapping[int, Tensor],
    target: Tensor,
    weights: Mapping[int, float],
    *,
    share: float,
    criterion: Criterion | None = None,
) -> Tensor:
    """The joint loss, with a part of the early exits' from the softened answer of the deepest one.

    Args:
        logits_by_exit, target, weights, criterion: as for `joint_loss`.
        share: of the deepest exit's answer in the loss of the others, 0 to 1; the rest is the loss against the truth.

    Returns:
        Scalar loss in nats, averaged over the batch.

    Source: Be Your Own Teacher, Zhang et al. 2019, section 3, without the loss on features.
    """
    deepest = max(logits_by_exit)
    labelled = {number: w if number == deepest else w * (1 - share) for number, w in weights.items()}
    loss = joint_loss(logits_by_exit, target, labelled, criterion=criterion)
    early = {number: logits_BK for number, logits_BK in logits_by_exit.items() if number != deepest}
    if not early or not share:
        return loss
    taught = distillation_loss(
        early,
        logits_by_exit[deepest],
        target,
        {number: weights[number] for number in early},
        alpha=1.0,
        temperature=_OWN_TEMPERATURE,
        criterion=criterion,
    )
    return loss + share * taught


def distillation_loss(
    logits_by_exit: Mapping[int, Tensor],
    teacher_BK: Tensor,
    target: Tensor,
    weights: Mapping[int, float],
    *,
    alpha: float,
    temperature: float,
    criterion: Criterion | None = None,
) -> Tensor:
    """Pull every exit towards the teacher's softened answer.

    Args:
        logits_by_exit: logits (B, K) by exit number.
        teacher_BK: the teacher's logits; no gradient flows into them.
        target: the truth of each sample; ignored if `alpha` is 1, so photos without labels will do.
        weights: weight of each exit.
        alpha: share of the teacher, 0 to 1; the rest is the loss against the truth.
        temperature: T > 0 that softens both sides.
        criterion: as for `joint_loss`.

    Returns:
        Scalar loss in nats, averaged over the batch.

    Raises:
        ConfigError: there is not one weight for each exit.

    Source: (1 - α) · CE + α · T² · KL(teacher ‖ student), Hinton et al. 2015, section 2.
    """
    _check_weights(logits_by_exit, weights)
    criterion = criterion or Criterion()
    total = torch.zeros((), device=teacher_BK.device)
    for number, logits_BK in logits_by_exit.items():
        loss = alpha * criterion.taught(logits_BK, teacher_BK.detach(), temperature)
        if alpha < 1:
            loss = loss + (1 - alpha) * criterion.labelled(logits_BK, target)
        total = total + weights[number] * loss
    return total


def balanced_weights(classes_N: Tensor, num_classes: int) -> Tensor:
    """Factors (K,) that give each class the same weight in the loss of all images; they average 1 over the images.

    A class without images has the factor 0, which no loss ever uses.
    """
    count_K = torch.bincount(classes_N, minlength=num_classes).float()
    present = count_K > 0
    return torch.where(present, len(classes_N) / (present.sum() * count_K.clamp(min=1)), 0.0)


def _check_weights(logits_by_exit: Mapping[int, Tensor], weights: Mapping[int, float]) -> None:
    if set(weights) != set(logits_by_exit):
        raise ConfigError(
            f"weights are for exits {sorted(weights)}, logits for exits {sorted(logits_by_exit)}; give one for each"
        )


def reconstruction_loss(found: Tensor, feature: Tensor) -> Tensor:
    """Squared error of a feature (B, C, …) after a bottleneck: 0 is perfect, 1 no better than each channel's mean."""
    expected = feature.float()
    variance = expected.transpose(0, 1).flatten(1).var(dim=1).mean()
    return functional.mse_loss(found.float(), expected) / variance.clamp(min=torch.finfo(torch.float32).tiny)
