"""How an exit learns and when it is right, for each task.

Shapes: B samples, K classes or labels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from offramp.authoring.networks.estimates import scaled_estimate
from offramp.authoring.recipes.recipe import RecipeValues
from offramp.bundle.task import Quantity


class Criterion(nn.Module):
    """The loss of one exit, and what counts as a right answer. The plain one is of exclusive classes."""

    _class_weight_K: Tensor | None

    def __init__(self, *, label_smoothing: float = 0.0, class_weight_K: Tensor | None = None) -> None:
        """Prepare the cross-entropy of exclusive classes.

        Args:
            label_smoothing: share of the target that is spread over all classes.
            class_weight_K: factor of the loss of each class; as a rule they average 1 over the training images.
        """
        super().__init__()
        self._smoothing = label_smoothing
        self.register_buffer("_class_weight_K", class_weight_K, persistent=False)

    def labelled(self, logits_BK: Tensor, target: Tensor) -> Tensor:
        """Loss against the truth, a scalar in nats, averaged over the batch.

        Args:
            logits_BK: of one exit.
            target: class of each sample (B,), or the share of each class in it (B, K).
        """
        if self._class_weight_K is None:
            return functional.cross_entropy(logits_BK, target, label_smoothing=self._smoothing)
        # torch's own mean would divide by the weights that happen to be in the batch.
        return functional.cross_entropy(
            logits_BK, target, self._class_weight_K, label_smoothing=self._smoothing, reduction="none"
        ).mean()

    def taught(self, logits_BK: Tensor, teacher_BK: Tensor, temperature: float) -> Tensor:
        """T² · KL(teacher ‖ student), both softened by T; because of T², gradients do not depend on it in size.

        Source: Hinton et al. 2015, section 2.
        """
        answer_BK = torch.log_softmax(logits_BK.float() / temperature, dim=1)
        target_BK = torch.log_softmax(teacher_BK.float() / temperature, dim=1)
        divergence = functional.kl_div(answer_BK, target_BK, reduction="batchmean", log_target=True)
        return temperature**2 * divergence

    def said(self, logits_BK: Tensor) -> Tensor:
        """The answer, in the form of a truth."""
        return logits_BK.argmax(dim=1)

    def right(self, logits_BK: Tensor, target: Tensor) -> Tensor:
        """Whether each answer is right (B,)."""
        return self.said(logits_BK) == target


class LabelsCriterion(Criterion):
    """Any number of labels: binary cross-entropy, added up over the labels; all of them must be right."""

    def labelled(self, logits_BK: Tensor, target: Tensor) -> Tensor:
        """The same for a target (B, K) of 0 and 1."""
        return _binary(logits_BK.float(), target.float())

    def taught(self, logits_BK: Tensor, teacher_BK: Tensor, temperature: float) -> Tensor:
        """T² · KL(teacher ‖ student), added up over the labels."""
        teacher_BK = teacher_BK.float() / temperature
        target_BK = teacher_BK.sigmoid()
        divergence = _binary(logits_BK.float() / temperature, target_BK) - _binary(teacher_BK, target_BK)
        return temperature**2 * divergence

    def said(self, logits_BK: Tensor) -> Tensor:
        """The labels (B, K) that are at least as likely as not."""
        return logits_BK >= 0

    def right(self, logits_BK: Tensor, target: Tensor) -> Tensor:
        """Whether exactly the true labels are given (B,)."""
        return (self.said(logits_BK) == (target > 0)).all(dim=1)


class ValueCriterion(Criterion):
    """A quantity: Gaussian negative log-likelihood; an answer within the tolerance is right.

    Each sample's likelihood is weighted by its standard deviation, which no gradient sees: otherwise samples with a
    small variance rule the training, or end it with an infinite loss (β-NLL with β = 0.5, Seitzer et al. 2022).
    """

    def __init__(self, quantity: Quantity) -> None:
        super().__init__()
        self._quantity = quantity

    def labelled(self, logits_BK: Tensor, target: Tensor) -> Tensor:
        """The same for a target (B,) in the quantity's unit.

        Source: Nix and Weigend 1994, in units of half the quantity's range.
        """
        mean_B, std_B = scaled_estimate(logits_BK.float())
        error_B = mean_B - (target.float() - self._quantity.middle) / self._quantity.half_range
        each_B = std_B.log() + (error_B / std_B).square() / 2
        return (each_B * std_B.detach()).mean()

    def taught(self, logits_BK: Tensor, teacher_BK: Tensor, temperature: float) -> Tensor:
        """KL(teacher ‖ student) of two normal distributions; a temperature would change nothing that is learned."""
        mean_B, std_B = scaled_estimate(logits_BK.float())
        taught_B, taught_std_B = scaled_estimate(teacher_BK.float())
        spread_B = taught_std_B.square() + (mean_B - taught_B).square()
        divergence_B = std_B.log() - taught_std_B.log() + spread_B / std_B.square() / 2 - 0.5
        return (divergence_B * std_B.detach()).mean()

    def said(self, logits_BK: Tensor) -> Tensor:
        """The value (B,) in the quantity's unit."""
        mean_B, _ = scaled_estimate(logits_BK.float())
        return self._quantity.middle + self._quantity.half_range * mean_B

    def right(self, logits_BK: Tensor, target: Tensor) -> Tensor:
        """Whether each value is off by at most the tolerance (B,)."""
        return (self.said(logits_BK) - target).abs() <= self._quantity.tolerance


def criterion_of(recipe: RecipeValues, class_weight_K: Tensor | None = None) -> Criterion:
    """How the exits of a recipe learn."""
    if recipe.task.quantity is not None:
        return ValueCriterion(recipe.task.quantity)
    if recipe.task.kind == "multi_label":
        return LabelsCriterion()
    return Criterion(label_smoothing=recipe.label_smoothing, class_weight_K=class_weight_K)


def _binary(logits_BK: Tensor, target_BK: Tensor) -> Tensor:
    each_BK = functional.binary_cross_entropy_with_logits(logits_BK, target_BK, reduction="none")
    return each_BK.sum(dim=1).mean()
