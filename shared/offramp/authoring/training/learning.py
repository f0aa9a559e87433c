"""One phase of training on Lightning: it trains the parts of the network that the phase names and freezes the rest.

Shapes: B samples, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import lightning
import torch
from torch import Tensor
from torchmetrics import MeanMetric

from offramp.authoring.networks.check import choose_layout
from offramp.authoring.networks.early_exit import EarlyExitNetwork
from offramp.authoring.networks.normalise import Normalise
from offramp.authoring.recipes.recipe import RecipeValues
from offramp.authoring.training.augment import augment, mix
from offramp.authoring.training.criteria import Criterion
from offramp.authoring.training.frozen import Answers, Front
from offramp.authoring.training.keeping import SCORE
from offramp.authoring.training.losses import distillation_loss, reconstruction_loss, self_taught_loss
from offramp.authoring.training.optimizers import optimizer_of, schedule_of
from offramp.authoring.training.pixels import PixelChanges
from offramp.authoring.training.precision import GroupsInFloat32
from offramp.authoring.training.regimes import Phase
from offramp.errors import ConfigError

Given = Tensor | Mapping[str, Tensor]  # normalised pixels, or cached features by name
Batch = tuple[Given, Tensor]


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
    """Trains the blocks and EECs of one phase."""

    def __init__(
        self,
        network: EarlyExitNetwork,
        phase: Phase,
        recipe: RecipeValues,
        *,
        num_classes: int,
        seed: int,
        teacher: Teacher | None = None,
        front: Front | None = None,
        final_weights: Mapping[int, float] | None = None,
        criterion: Criterion | None = None,
        compiled: bool = False,
    ) -> None:
        """Prepare a phase.

        Args:
            network: the whole network; parts that the phase does not train are frozen.
            phase: which parts to train.
            recipe: optimizer, augmentation, preprocessing.
            num_classes: K.
            seed: of everything random in every epoch.
            teacher: for distillation; without one, the exits learn from the truth.
            front: if given, batches hold what it computes instead of pixels.
            final_weights: weights of the losses in the last epoch; the weights move there from the phase's own.
            criterion: the loss of one exit; plain cross-entropy of exclusive classes unless given.
            compiled: whether the network and the teacher are compiled; for batches of pixels.
        """
        super().__init__()
        self.network = choose_layout(network, recipe.preprocessing)
        self._compiled = compiled
        self._logits_at = compiled_logits_at(network) if compiled else network.logits_at
        self._phase = phase
        self._recipe = recipe
        self._seed = seed
        self._teacher = teacher
        self._front = front
        self._final_weights = final_weights or phase.weights
        self._normalise = Normalise(recipe.preprocessing)
        self._change_pixels = PixelChanges(recipe.augmentation, recipe.preprocessing)
        self._num_classes = num_classes
        self._criterion = criterion or Criterion()
        # In a list, so that the teacher stays out of the checkpoint.
        self._frozen = [teacher.network.eval().requires_grad_(False)] if teacher and teacher.network else []
        self._taught_at = [
            compiled_logits_at(other) if compiled else other.logits_at for other in self._frozen
        ]
        self._accuracies = {n: MeanMetric() for n in sorted(phase.exits)}
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

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """One step on uint8 pixels (B, H, W, C), or on cached features by name, and their truths (B, …)."""
        given, target = batch
        if self._compiled:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        if isinstance(given, Tensor):
            given, target = self._augmented(given, target)
        with GroupsInFloat32() if self.device.type == "cpu" else nullcontext():
            loss = self._loss(given, target)
        if not torch.isfinite(loss):
            raise ConfigError(
                f"loss is {loss.item()} at step {self.global_step}; lower the learning rate and resume from "
                "the last checkpoint"
            )
        self.log("loss", loss, prog_bar=True)
        return loss

    def _augmented(self, pixels_BHWC: Tensor, class_B: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised pixels (B, C, H, W), and their classes or, if they are mixed, the shares of the classes (B, K)."""
        augmentation = self._recipe.augmentation
        image_BCHW = augment(self._normalise(self._change_pixels(pixels_BHWC)), augmentation)
        if not augmentation.mixup:
            return image_BCHW, class_B
        return mix(image_BCHW, class_B, num_classes=self._num_classes, alpha=augmentation.mixup)

    def _loss(self, given: Given, target: Tensor) -> Tensor:
        weights = self._weights()
        if not weights:
            return self._matching(given)
        answers = self._answers(given, weights)
        if self._teacher is None:
            return self_taught_loss(
                answers.logits_by_exit,
                target,
                weights,
                share=self._recipe.self_distillation,
                criterion=self._criterion,
            )
        assert answers.taught_BK is not None, "a teacher has answered"
        return distillation_loss(
            answers.logits_by_exit,
            answers.taught_BK,
            target,
            weights,
            alpha=self._teacher.alpha,
            temperature=self._teacher.temperature,
            criterion=self._criterion,
        )

    def _answers(self, given: Given, exits: Collection[int]) -> Answers:
        """What these exits and the teacher say to normalised pixels (B, C, H, W) or cached features."""
        if not isinstance(given, Tensor):
            assert self._front is not None, "cached features come from a front"
            return self._front.answers(given, exits)
        if self._teacher is None:
            return Answers(self._logits_at(given, tuple(exits)), None)
        if self._frozen:
            with torch.no_grad():
                teacher = self._frozen[0].to(given.device)
                taught_BK = self._taught_at[0](given, (teacher.num_exits,))[teacher.num_exits]
            return Answers(self._logits_at(given, tuple(exits)), taught_BK)
        last = self.network.num_exits
        logits_by_exit = self._logits_at(given, (*exits, last))
        return Answers(logits_by_exit, logits_by_exit.pop(last))

    def _matching(self, given: Given) -> Tensor:
        bottleneck = self.network.bottleneck
        assert bottleneck is not None, "a phase without exits trains a bottleneck"
        if isinstance(given, Tensor):
            feature = self.network.feature_behind(bottleneck.spec.split_point - 1, given).detach()
        else:
            assert self._front is not None, "cached features come from a front"
            feature = self._front.handed_on(given)
        return reconstruction_loss(bottleneck(feature), feature)

    def _weights(self) -> dict[int, float]:
        """This epoch's weights: they move evenly from the phase's own, in epoch 1, to the final ones, in the last."""
        epochs = max((self.trainer.max_epochs or 1) - 1, 1)
        progress = min(self.current_epoch / epochs, 1.0)
        return {
            number: weight + progress * (self._final_weights[number] - weight)
            for number, weight in self._phase.weights.items()
        }

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Log the accuracy of the exits that learn; their mean is the phase's score."""
        given, target = batch
        if isinstance(given, Tensor):
            given = self._normalise(given)
        if not self._phase.exits:
            error = self._matching(given)
            self.log("reconstruction", error, prog_bar=True, on_epoch=True)
            self.log(SCORE, -error, on_epoch=True, sync_dist=True)
            return
        for number, logits_BK in self._logits(given).items():
            accuracy = self._accuracies[number]
            accuracy(self._criterion.right(logits_BK, target).float())
            self.log(f"exit_{number}", accuracy, prog_bar=True, on_epoch=True)

    def _logits(self, given: Given) -> Mapping[int, Tensor]:
        if isinstance(given, Tensor):
            return self.network.logits_at(given, self._phase.exits)
        return self._answers(given, self._phase.exits).logits_by_exit

    def on_validation_epoch_end(self) -> None:
        """Log the score; every process has validated all images."""
        if self._phase.exits:
            accuracies = [accuracy.compute() for accuracy in self._accuracies.values()]
            self.log(SCORE, torch.stack(accuracies).mean(), sync_dist=True)

    # Lightning accepts this dictionary, but its annotation asks for a typed one.
    def configure_optimizers(self) -> dict[str, object]:  # type: ignore[override]
        """The recipe's optimizer and schedule."""
        optimizer = optimizer_of(self.network, self._recipe)
        schedule = schedule_of(optimizer, self._recipe, int(self.trainer.estimated_stepping_batches))
        if schedule is None:
            return {"optimizer": optimizer}
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def compiled_logits_at(network: EarlyExitNetwork) -> Callable[..., dict[int, Tensor]]:
    """A network's `logits_at`, compiled when it is first called, and again for another size of batch."""
    # In this mode, all kernels of a step on a GPU are launched at once; a small network is mostly launches otherwise.
    # Exits' numbers must stay numbers for the compiler, which otherwise takes them for sizes that change.
    return torch.compile(network.logits_at, mode="reduce-overhead", dynamic=False)


def epoch_seed(seed: int, epoch: int) -> int:
    """Seed of everything random in one epoch of a run."""
    return seed * 100_003 + epoch
