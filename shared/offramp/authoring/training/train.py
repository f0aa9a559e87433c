"""The training loop for all regimes: Lightning's, with checkpoints that a run can resume from."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import ProgressBar, Timer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, from_numpy
from torch.utils.data import DataLoader

from offramp.authoring.data.labelled import LabelledImages
from offramp.authoring.data.split import TrainValidation, parts_of
from offramp.authoring.networks.early_exit import EarlyExitNetwork
from offramp.authoring.training.batches import training_batches, validation_batches
from offramp.authoring.training.check import check_compiled, check_run
from offramp.authoring.training.claim import claimed
from offramp.authoring.training.criteria import criterion_of
from offramp.authoring.training.feature_batches import training_features, validation_features
from offramp.authoring.training.features import cache_features, remove_features
from offramp.authoring.training.frozen import Front, front_of
from offramp.authoring.training.keeping import judging_part, keeping
from offramp.authoring.training.learning import PhaseTraining, Teacher, epoch_seed
from offramp.authoring.training.losses import balanced_weights
from offramp.authoring.training.narrowing import fit_bottleneck
from offramp.authoring.training.progress import progress_of
from offramp.authoring.training.regimes import Phase
from offramp.authoring.training.run import (
    Run,
    best_checkpoint_name,
    checkpoint_name,
    kept_checkpoint,
    load_network,
    load_run,
    load_weights,
)
from offramp.authoring.training.stopping import stopping_said
from offramp.errors import ConfigError

_FEATURES = "features"
_EPOCHS_PER_PHASE = 10_000


@dataclass(frozen=True)
class Machines:
    """How many processes train: `devices` on each of `nodes` machines. They share each batch.

    workers: processes that read photos ahead for each of them; None for as many as `workers_for` says.
    compiled: whether the network is compiled; for one process that learns from pixels, and needs a C++ compiler.
    """

    devices: int = 1
    nodes: int = 1
    workers: int | None = None
    compiled: bool = False

    @property
    def processes(self) -> int:
        """How many processes there are in all."""
        return self.devices * self.nodes


def train(
    images: LabelledImages,
    run: Run,
    directory: Path,
    *,
    calibration: LabelledImages | None = None,
    resume: bool = False,
    machines: Machines | None = None,
    features: Path | None = None,
) -> None:
    """Train and leave the checkpoints of each phase in `directory`.

    A bar on a terminal shows the progress, elsewhere log lines.

    Args:
        images: the whole training part; the run's split, if it has one, holds out its validation samples.
        run: what to train.
        directory: where checkpoints and the log of accuracies go.
        calibration: the samples that thresholds are chosen on, if they are a part of their own.
        resume: continue from the last checkpoint, if there is one.
        machines: how many processes train, with Lightning's data parallelism; one unless given.
        features: where cached features are kept for further trainings; unless given, they are removed at the end.

    Raises:
        ConfigError: recipe, network and data do not fit together; the network of the start or of the teacher does not
            fit; it cannot be compiled; the directory has a run with a checkpoint, and its settings differ or `resume`
            is not set; or another training is using the directory. Nothing is written in these cases.
        DataError: the images or classes do not fit the run.
        StoppedError: SIGTERM or Ctrl-C ended the training.
    """
    machines = machines or Machines()
    lightning.seed_everything(run.provenance.seed, workers=True, verbose=False)
    network = run.build(directory)
    _start(run, network)
    check_run(run, network, images, calibration=calibration, processes=machines.processes)
    if machines.compiled:
        check_compiled(run, processes=machines.processes)
    teacher = _teacher(run, network)
    parts = parts_of(images, run.provenance.data, calibration)
    parts = TrainValidation(parts.train, judging_part(parts.validation))
    _quiet()
    with claimed(directory, run, resume=resume):
        if run.bottleneck:
            fit_bottleneck(network, parts.train, run.recipe)
        phases = run.phases(network)
        for number in range(1, len(phases) + 1):
            plan = _Plan(number, phases, run, directory, features or directory / _FEATURES, machines)
            _train_phase(plan, network, parts, teacher)
            if number < len(phases) and (run.recipe.keep == "best" or run.recipe.ema is not None):
                load_weights(network, kept_checkpoint(directory, number, run.recipe), run)
        if features is None:
            remove_features(directory / _FEATURES)


@dataclass(frozen=True)
class _Plan:
    """One phase of a run: its number, and where its checkpoints and cached features go."""

    number: int
    phases: Sequence[Phase]
    run: Run
    directory: Path
    features: Path
    machines: Machines

    @property
    def last(self) -> Path:
        """File of the last checkpoint."""
        return self.directory / checkpoint_name(self.number)


def _train_phase(
    plan: _Plan, network: EarlyExitNetwork, parts: TrainValidation, teacher: Teacher | None
) -> None:
    run, phase = plan.run, plan.phases[plan.number - 1]
    if plan.last.exists():
        # Lightning would load them too, but not say which part does not fit.
        load_weights(network, plan.last, run)
    seed = epoch_seed(run.provenance.seed, _EPOCHS_PER_PHASE * (plan.number - 1))
    final = run.final_exit_weights
    front = front_of(network, phase, (teacher.network or network) if teacher else None)
    if not run.cached_views:
        front = None
    module = PhaseTraining(
        network,
        phase,
        run.recipe.changed(**phase.changes),
        num_classes=len(run.labels),
        seed=seed,
        teacher=teacher,
        front=front,
        final_weights={n: final[n - 1] for n in phase.weights} if final else None,
        criterion=criterion_of(run.recipe, _class_weights(run, parts)),
        compiled=plan.machines.compiled,
    )
    training, validation = _loaders(plan, front, parts, seed)
    with stopping_said(plan.directory):
        _trainer(plan).fit(
            module,
            train_dataloaders=training,
            val_dataloaders=validation,
            ckpt_path=plan.last if plan.last.exists() else None,
            weights_only=True,
        )


def _class_weights(run: Run, parts: TrainValidation) -> Tensor | None:
    if run.recipe.class_weights == "equal":
        return None
    return balanced_weights(from_numpy(parts.train.classes), len(run.labels))


def _loaders(
    plan: _Plan, front: Front | None, parts: TrainValidation, seed: int
) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Batches of pixels, or of the features that are computed from them here and now."""
    batch_size, processes = plan.run.recipe.batch_size, plan.machines.processes
    if front is None:
        workers = plan.machines.workers
        return (
            training_batches(parts.train, batch_size, seed, processes, workers=workers),
            validation_batches(parts.validation, workers=workers),
        )
    cached = cache_features(front, parts, plan.run, plan.features)
    return (
        training_features(cached.train, batch_size, seed, processes),
        validation_features(cached.validation),
    )


def _trainer(plan: _Plan) -> lightning.Trainer:
    recipe, machines = plan.run.recipe, plan.machines
    progress = progress_of(plan.number, len(plan.phases))
    best = plan.directory / best_checkpoint_name(plan.number)
    return lightning.Trainer(
        accelerator="auto",
        devices=machines.devices,
        num_nodes=machines.nodes,
        strategy="ddp" if machines.processes > 1 else "auto",
        use_distributed_sampler=False,
        precision="bf16-mixed",
        max_epochs=recipe.epochs,
        accumulate_grad_batches=recipe.accumulate,
        gradient_clip_val=recipe.clip,
        callbacks=[Timer(), progress, *keeping(recipe, last=plan.last, best=best)],
        enable_progress_bar=isinstance(progress, ProgressBar),
        logger=CSVLogger(plan.directory, name="log"),
        enable_model_summary=False,
        log_every_n_steps=50,
    )


def _start(run: Run, network: EarlyExitNetwork) -> None:
    """Give the network its first weights, if they come from another run."""
    if run.start is None:
        if run.bottleneck:
            raise ConfigError("a bottleneck needs a trained network; give the run that trained it")
        if run.recipe.is_trained:
            return
        if run.regime == "distill" and run.teacher is None:
            raise ConfigError(
                "distillation needs a trained backbone; give --start RUN, made with --regime backbone, or --teacher RUN"
            )
        if run.regime == "exits":
            raise ConfigError(
                "exits learn on a trained backbone; give --start RUN, made with --regime backbone, or a recipe whose "
                "backbone is trained"
            )
        if run.regime == "distill" and run.frozen:
            raise ConfigError("a frozen backbone must be trained already; give --start RUN or --unfrozen")
        return
    start = load_network(Path(run.start))
    try:
        added = network.load_state_dict(start.state_dict(), strict=run.bottleneck is None)
        left = [*added.unexpected_keys, *(k for k in added.missing_keys if not k.startswith("bottleneck."))]
        if left:
            raise RuntimeError(f"{left[0]} fits nothing")
    except RuntimeError as error:
        raise ConfigError(
            f"{run.start} was trained as '{load_run(Path(run.start)).provenance.recipe}', which has another network "
            f"than '{run.provenance.recipe}'; start from a run of the same recipe"
        ) from error


def _teacher(run: Run, network: EarlyExitNetwork) -> Teacher | None:
    if run.regime not in ("distill", "bottleneck"):
        return None
    if run.teacher is None and run.regime == "bottleneck":
        assert run.start is not None, "checked when the network was made"
        return Teacher(load_network(Path(run.start)), run.alpha, run.temperature)
    if run.teacher is None:
        # A frozen backbone teaches its own EECs, as its last exit is computed anyway.
        return Teacher(None if run.frozen else deepcopy(network), run.alpha, run.temperature)
    other = load_run(Path(run.teacher))
    if other.recipe.task != run.recipe.task:
        raise ConfigError(
            f"{run.teacher} was trained for another task, {other.recipe.task.kind}, or another quantity; choose a "
            f"teacher for {run.recipe.task.kind}"
        )
    labels = other.labels
    if labels != run.labels:
        raise ConfigError(
            f"{run.teacher} has the classes {', '.join(labels)}, but this run has {', '.join(run.labels)}; "
            "choose a teacher with the same classes"
        )
    return Teacher(load_network(Path(run.teacher)), run.alpha, run.temperature)


def _quiet() -> None:
    # Data is in memory, so Lightning's advice on loader workers does not apply; its adverts are hidden too.
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    # Frozen parts are in eval mode on purpose.
    warnings.filterwarnings("ignore", ".*eval mode at the start of training.*")
    warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)
    warnings.filterwarnings("ignore", ".*Checkpoint directory .* exists and is not empty.*")
