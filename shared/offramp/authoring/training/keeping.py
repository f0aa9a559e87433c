"""Which weights a phase ends with: an average, those of the best epoch, or those of the last."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping, ModelCheckpoint, WeightAveraging
from torch import Tensor

from offramp.authoring.data.labelled import LabelledImages
from offramp.authoring.recipes.recipe import RecipeValues
from offramp.authoring.selection.guarantee import halves

# What a phase is judged by. It is logged at the end of each epoch; higher is better.
SCORE = "score"


def judging_part(held_out: LabelledImages) -> LabelledImages:
    """The held-out images that may judge a training: the half that proposes thresholds.

    The other half tests them. A certificate holds only if nothing was chosen on that half, an epoch included.
    """
    if len(held_out) < 2:
        return held_out
    proposing, _ = halves(len(held_out))
    return held_out.take(proposing)


def keeping(recipe: RecipeValues, *, last: Path, best: Path) -> list[Callback]:
    """The callbacks that average, stop early and save, in the order in which they must run.

    Args:
        recipe: what to keep.
        last: file of the last checkpoint, with which a run is resumed.
        best: file of the best one.
    """
    found: list[Callback] = []
    if recipe.ema is not None:
        found.append(WeightAveraging(avg_fn=_moving_average(recipe.ema)))
    if recipe.patience is not None:
        found.append(_StopEarly(recipe.patience))
    if recipe.keep == "best":
        found.append(_KeepBest(best))  # before the last, whose file also holds the best score so far
    saves = ModelCheckpoint(
        last.parent, filename=last.stem, save_on_train_epoch_end=True, enable_version_counter=False
    )
    return [*found, saves]


def _moving_average(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    def averaged(average: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        # A short memory at first, so that the average does not cling to the weights of the first steps.
        memory = torch.clamp(torch.as_tensor((1 + count) / (10 + count)), max=decay)
        return average + (current - average) * (1 - memory)

    return averaged


class _StopEarly(EarlyStopping):
    """A phase that stopped early stays so when its run is resumed."""

    def __init__(self, patience: int) -> None:
        super().__init__(SCORE, patience=patience, mode="max", check_on_train_epoch_end=True)

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Called after the state was restored."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True


class _KeepBest(Checkpoint):
    """Saves an epoch whose score is higher than that of all before it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._best = float("-inf")

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Called after validation, before the last checkpoint is saved."""
        score = float(trainer.callback_metrics[SCORE])
        if score > self._best:
            self._best = score
            trainer.save_checkpoint(self._path, weights_only=False)

    def state_dict(self) -> dict[str, Any]:
        """Saved with every checkpoint."""
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self._best = state_dict["best"]
