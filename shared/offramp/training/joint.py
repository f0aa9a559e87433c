"""Joint training: one weighted sum of the losses of all exits.

Shapes: B samples, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics.classification import MulticlassAccuracy

from offramp.errors import ConfigError
from offramp.networks.early_exit import EarlyExitNetwork
from offramp.networks.normalise import Normalise
from offramp.networks.recipes import Recipe
from offramp.training.augment import augment


def joint_loss(
    logits_by_exit: Sequence[Tensor],
    class_B: Tensor,
    weights: Sequence[float],
    *,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Sum the losses of all exits, so that shallow and deep EECs are trained together.

    Args:
        logits_by_exit: logits (B, K) of every exit, as `EarlyExitNetwork.forward` returns them.
        class_B: class index of each sample, 0 to K - 1.
        weights: weight of each exit; need not sum to 1.
        label_smoothing: share of the target that is spread over all classes.

    Returns:
        Scalar loss in nats, averaged over the batch.

    Raises:
        ConfigError: not one weight for each exit.

    Source: L = Σ w_i · CE(ȳ_i, y), BranchyNet, Teerapittayanon et al. 2016, eq. 1.
    """
    if len(weights) != len(logits_by_exit):
        raise ConfigError(f"{len(weights)} exit weights for {len(logits_by_exit)} exits; give one for each")
    losses = [
        weight * functional.cross_entropy(logits_BK, class_B, label_smoothing=label_smoothing)
        for weight, logits_BK in zip(weights, logits_by_exit, strict=True)
    ]
    return torch.stack(losses).sum()


class JointTraining(lightning.LightningModule):
    """Trains an early-exit network jointly, with one-cycle SGD."""

    def __init__(self, network: EarlyExitNetwork, recipe: Recipe, *, num_classes: int, seed: int) -> None:
        super().__init__()
        # Convolutions on a CPU run faster with the channels last; the stubs lack this overload.
        self.network: EarlyExitNetwork = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._normalise = Normalise(recipe.preprocessing)
        self._recipe = recipe
        self._seed = seed
        accuracies = [MulticlassAccuracy(num_classes, average="micro") for _ in range(network.num_exits)]
        self._accuracies = accuracies
        self._registered = torch.nn.ModuleList(accuracies)  # so that Lightning finds and moves them

    def on_train_epoch_start(self) -> None:
        """Augmentation and dropout draw the same in this epoch, whether the run was interrupted before or not."""
        torch.manual_seed(epoch_seed(self._seed, self.current_epoch))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        """One step on uint8 pixels (B, H, W, C) and their classes (B,)."""
        pixels_BHWC, class_B = batch
        image_BCHW = augment(self._normalise(pixels_BHWC), self._recipe.augmentation)
        loss = joint_loss(
            self.network(image_BCHW),
            class_B,
            self._recipe.exit_weights,
            label_smoothing=self._recipe.label_smoothing,
        )
        if not torch.isfinite(loss):
            raise ConfigError(
                f"loss is {loss.item()} at step {self.global_step}; lower the learning rate and resume from "
                "the last checkpoint"
            )
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        """Accuracy of every exit over all validation samples, in training's precision: a sign of progress only."""
        pixels_BHWC, class_B = batch
        logits_by_exit = self.network(self._normalise(pixels_BHWC))
        for number, (logits_BK, accuracy) in enumerate(
            zip(logits_by_exit, self._accuracies, strict=True), start=1
        ):
            accuracy(logits_BK, class_B)
            self.log(f"exit_{number}", accuracy, prog_bar=True, on_epoch=True)

    # Lightning takes this dictionary, but its annotation spells out a typed one.
    def configure_optimizers(self) -> dict[str, object]:  # type: ignore[override]
        """SGD with momentum; the learning rate rises for a fifth of the steps and falls to zero."""
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        plain = [p for p in self.network.parameters() if p.ndim <= 1]
        groups: list[dict[str, Any]] = [
            {"params": decayed, "weight_decay": self._recipe.weight_decay},
            {"params": plain},
        ]
        optimizer = torch.optim.SGD(
            groups,
            lr=self._recipe.learning_rate,
            momentum=0.9,
            nesterov=True,
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=self._recipe.learning_rate,
            total_steps=int(self.trainer.estimated_stepping_batches),
            pct_start=0.2,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def epoch_seed(seed: int, epoch: int) -> int:
    """Seed of everything that is drawn at random in one epoch of a run."""
    return seed * 100_003 + epoch
