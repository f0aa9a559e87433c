"""How a training shows its progress: a bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import time
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from torch import Tensor

from offramp.logs import line

_log = logging.getLogger("offramp.train")
_EVERY_S = 30.0


def progress_of(phase_number: int, num_phases: int) -> Callback:
    """A bar on standard error if that is a terminal; otherwise a log line for each epoch, and every half minute."""
    if Console(stderr=True).is_terminal:
        return RichProgressBar(console_kwargs={"stderr": True})
    return ProgressLines(f"{phase_number}/{num_phases}")


class ProgressLines(Callback):
    """Logs epoch, step, loss, accuracies on held-out images, and the time that the phase still takes."""

    def __init__(self, phase: str, *, every_s: float = _EVERY_S) -> None:
        """Prepare the lines of one phase.

        Args:
            phase: its number, and how many there are.
            every_s: seconds between two lines within an epoch.
        """
        self._phase = phase
        self._every_s = every_s
        self._losses: list[Tensor] = []
        self._loss = 0.0
        self._started_s = self._logged_s = 0.0
        self._first_step = 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock; a resumed phase has made some of its steps already."""
        self._started_s = self._logged_s = time.monotonic()
        self._first_step = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Log a line if the last one is some time ago."""
        self._losses.append(outputs["loss"].detach())
        if time.monotonic() - self._logged_s >= self._every_s:
            self._write(trainer, batches=batch_idx + 1)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Log the epoch, with the accuracies after it."""
        shown = {name: value for name, value in trainer.callback_metrics.items() if name != "loss"}
        self._write(trainer, batches=int(trainer.num_training_batches), **shown)

    @rank_zero_only
    def _write(self, trainer: lightning.Trainer, *, batches: int, **measured: Tensor) -> None:
        now = time.monotonic()
        if self._losses:  # none if the last line came with the last batch
            self._loss = sum(float(each) for each in self._losses) / len(self._losses)
        made = trainer.global_step - self._first_step
        steps_left = int(trainer.estimated_stepping_batches) - trainer.global_step
        left = {"left_s": round((now - self._started_s) / made * steps_left)} if made else {}
        _log.info(
            line(
                "training",
                phase=self._phase,
                epoch=f"{trainer.current_epoch + 1}/{trainer.max_epochs}",
                batch=f"{batches}/{int(trainer.num_training_batches)}",
                loss=self._loss,
                **{name: float(value) for name, value in measured.items()},
                **left,
            )
        )
        self._logged_s = now
        self._losses.clear()
