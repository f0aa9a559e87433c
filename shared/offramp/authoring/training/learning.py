"""One phase of training on Lightning: it trains the parts of the network that the phase names and freezes the rest.

Shapes: B samples, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import lightning
import torch
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from offramp.authoring.networks.check import choose_layout
from offramp.authoring.networks.early_exit import EarlyExitNetwork
from offramp.authoring.networks.normalise import Normalise
from offramp.authoring.networks.recipes import Recipe
from offramp.authoring.training.augment import augment
from offramp.authoring.training.losses import distillation_loss, joint_loss, reconstruction_loss
from offramp.authoring.training.regimes import Phase
from offramp.errors import ConfigError

_RISE = 0.2
_FEWEST_STEPS = 3


@dataclass(frozen=True)
class Teacher:
    """The network that the exits learn from, and how closely they follow it.

    network: its last exit teaches; None means the last exit of the network being trained, which must be frozen.
    alpha: share of the teacher in the loss, 0 to 1. temperature: T > 0 of both softmaxes.
    """

    network: EarlyExitNetwork | None
    alpha: float
    temperature: float


class PhaseTraining(lightning.LightningModule):
    """Trains the blocks and EECs of one phase with one-cycle SGD."""

    def __init__(
        self,
        network: EarlyExitNetwork,
        phase: Phase,
        recipe: Recipe,
        *,
        num_classes: int,
        seed: int,
        teacher: Teacher | None = None,
        final_weights: Mapping[int, float] | None = None,
    ) -> None:
        """Prepare a phase.

        Args:
            network: the whole network; parts that the phase does not train are frozen.
            phase: which parts to train.
            recipe: optimizer, augmentation, preprocessing.
            num_classes: K.
            seed: of everything random in every epoch.
            teacher: for distillation; without one, the loss is cross-entropy with the labels.
            final_weights: weights of the losses in the last epoch; the weights move there from the phase's own.
        """
        super().__init__()
        self.network = choose_layout(network, recipe.preprocessing)
        self._phase = phase
        self._recipe = recipe
        self._seed = seed
        self._teacher = teacher
        self._final_weights = final_weights or phase.weights
        self._normalise = Normalise(recipe.preprocessing)
        # In a list, so that the teacher stays out of the checkpoint.
        self._frozen = [teacher.network.eval().requires_grad_(False)] if teacher and teacher.network else []
        self._accuracies = {n: MulticlassAccuracy(num_classes, average="micro") for n in sorted(phase.exits)}
        # Registered, so that Lightning moves them to the device.
        self._registered = torch.nn.ModuleList(self._accuracies.values())
        network.requires_grad_(False)
        for module in phase.learning(network):
            module.requires_grad_(True)

    def on_train_epoch_start(self) -> None:
        """Seed augmentation and dropout, so that the epoch is the same whether or not the run was interrupted."""
        torch.manual_seed(epoch_seed(self._seed, self.current_epoch))
        # A frozen batch norm must not update its statistics, and a frozen dropout must not drop anything.
        self.network.eval()
        for module in self._phase.learning(self.network):
            module.train()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        """One step on uint8 pixels (B, H, W, C) and their classes (B,)."""
        pixels_BHWC, class_B = batch
        loss = self._loss(augment(self._normalise(pixels_BHWC), self._recipe.augmentation), class_B)
        if not torch.isfinite(loss):
            raise ConfigError(
                f"loss is {loss.item()} at step {self.global_step}; lower the learning rate and resume from "
                "the last checkpoint"
            )
        self.log("loss", loss, prog_bar=True)
        return loss

    def _loss(self, image_BCHW: Tensor, class_B: Tensor) -> Tensor:
        weights = self._weights()
        if not weights:
            return self._matching(image_BCHW)
        if self._teacher is None:
            logits_by_exit = self.network.logits_at(image_BCHW, weights)
            return joint_loss(logits_by_exit, class_B, weights, label_smoothing=self._recipe.label_smoothing)
        last = self.network.num_exits
        logits_by_exit = self.network.logits_at(image_BCHW, weights if self._frozen else [*weights, last])
        if self._frozen:
            with torch.no_grad():
                teacher = self._frozen[0]
                taught_BK = teacher.logits_at(image_BCHW, [teacher.num_exits])[teacher.num_exits]
        else:
            taught_BK = logits_by_exit.pop(last)
        alpha, temperature = self._teacher.alpha, self._teacher.temperature
        return distillation_loss(
            logits_by_exit, taught_BK, class_B, weights, alpha=alpha, temperature=temperature
        )

    def _matching(self, image_BCHW: Tensor) -> Tensor:
        bottleneck = self.network.bottleneck
        assert bottleneck is not None, "a phase without exits trains a bottleneck"
        feature = self.network.feature_behind(bottleneck.spec.split_point - 1, image_BCHW).detach()
        return reconstruction_loss(bottleneck(feature), feature)

    def _weights(self) -> dict[int, float]:
        """This epoch's weights: they move evenly from the phase's own, in epoch 1, to the final ones, in the last."""
        epochs = max((self.trainer.max_epochs or 1) - 1, 1)
        progress = min(self.current_epoch / epochs, 1.0)
        return {
            number: weight + progress * (self._final_weights[number] - weight)
            for number, weight in self._phase.weights.items()
        }

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        """Log the accuracy of the exits that learn, on all validation samples; it only shows progress."""
        pixels_BHWC, class_B = batch
        image_BCHW = self._normalise(pixels_BHWC)
        if not self._phase.exits:
            self.log("reconstruction", self._matching(image_BCHW), prog_bar=True, on_epoch=True)
            return
        logits_by_exit = self.network.logits_at(image_BCHW, self._phase.exits)
        for number, logits_BK in logits_by_exit.items():
            accuracy = self._accuracies[number]
            accuracy(logits_BK, class_B)
            self.log(f"exit_{number}", accuracy, prog_bar=True, on_epoch=True)

    # Lightning accepts this dictionary, but its annotation asks for a typed one.
    def configure_optimizers(self) -> dict[str, object]:  # type: ignore[override]
        """SGD with momentum; the learning rate rises for a fifth of the steps and falls to zero.

        With fewer than three steps there is no room to rise and fall, so it stays constant.
        """
        learning = [p for p in self.network.parameters() if p.requires_grad]
        decayed = [p for p in learning if p.ndim > 1]
        plain = [p for p in learning if p.ndim <= 1]
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
        steps = int(self.trainer.estimated_stepping_batches)
        if steps < _FEWEST_STEPS:
            return {"optimizer": optimizer}
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=self._recipe.learning_rate,
            total_steps=steps,
            # torch counts steps from 0 and divides by the number of rising steps, which must be at least one.
            pct_start=max(_RISE, 2 / steps),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def epoch_seed(seed: int, epoch: int) -> int:
    """Seed of everything random in one epoch of a run."""
    return seed * 100_003 + epoch
