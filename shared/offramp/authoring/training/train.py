"""The training loop around the regimes: Lightning's, with checkpoints from which a run resumes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar, Timer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from offramp.authoring.data.labelled import LabelledImages
from offramp.authoring.data.split import TrainValidation, split_train
from offramp.authoring.networks.early_exit import EarlyExitNetwork
from offramp.authoring.training.learning import PhaseTraining, Teacher, epoch_seed
from offramp.authoring.training.regimes import Phase
from offramp.authoring.training.run import RUN_FILE, Run, checkpoint_name, load_network, load_run
from offramp.errors import ConfigError, DataError

_EPOCHS_PER_PHASE = 10_000


@dataclass(frozen=True)
class Machines:
    """How many processes train: `devices` on each of `nodes` machines. They share one batch between them."""

    devices: int = 1
    nodes: int = 1

    @property
    def processes(self) -> int:
        """All of them."""
        return self.devices * self.nodes


def train(
    images: LabelledImages,
    run: Run,
    directory: Path,
    *,
    resume: bool = False,
    machines: Machines | None = None,
) -> None:
    """Train and leave the last checkpoint of each phase in `directory`; a bar shows the progress.

    Args:
        images: the whole training part; the run's split holds its validation samples out.
        run: what to train.
        directory: where checkpoints and the log of accuracies go.
        resume: go on from the last checkpoint, if there is one.
        machines: several processes, with Lightning's data parallelism.

    Raises:
        ConfigError: the directory holds another run, or a run and `resume` is not set; or a start or a teacher
            whose network does not fit.
        DataError: a class beyond the labels.
    """
    machines = machines or Machines()
    _check_classes(images, run)
    lightning.seed_everything(run.provenance.seed, workers=True, verbose=False)
    network = _first_network(run)
    teacher = _teacher(run, network)
    # Lightning starts the command once more for each further process: only the first one may claim.
    rank_zero_only(_claim)(directory, run, resume=resume)
    parts = split_train(images, run.provenance.data.split)
    _quiet()
    for number, phase in enumerate(run.phases(network), start=1):
        _train_phase(number, phase, network, parts, run, directory, machines=machines, teacher=teacher)


def _train_phase(
    number: int,
    phase: Phase,
    network: EarlyExitNetwork,
    parts: TrainValidation,
    run: Run,
    directory: Path,
    *,
    machines: Machines,
    teacher: Teacher | None,
) -> None:
    checkpoint = directory / checkpoint_name(number)
    seed = epoch_seed(run.provenance.seed, _EPOCHS_PER_PHASE * (number - 1))
    final = run.final_exit_weights
    module = PhaseTraining(
        network,
        phase,
        run.recipe,
        num_classes=len(run.labels),
        seed=seed,
        teacher=teacher,
        final_weights={n: final[n - 1] for n in phase.weights} if final else None,
    )
    trainer = lightning.Trainer(
        accelerator="auto",
        devices=machines.devices,
        num_nodes=machines.nodes,
        strategy="ddp" if machines.processes > 1 else "auto",
        use_distributed_sampler=False,
        precision="bf16-mixed",
        max_epochs=run.provenance.epochs,
        callbacks=[
            ModelCheckpoint(
                directory,
                filename=checkpoint.stem,
                save_on_train_epoch_end=True,
                enable_version_counter=False,
            ),
            Timer(),
            RichProgressBar(),
        ],
        logger=CSVLogger(directory, name="log"),
        enable_model_summary=False,
        log_every_n_steps=50,
    )
    trainer.fit(
        module,
        train_dataloaders=_training_batches(parts.train, run.recipe.batch_size, seed, machines.processes),
        val_dataloaders=DataLoader(_Batches(parts.validation), batch_size=1000, collate_fn=_as_it_is),
        ckpt_path=checkpoint if checkpoint.exists() else None,
        weights_only=True,
    )


def _first_network(run: Run) -> EarlyExitNetwork:
    network = run.build()
    if run.start is None:
        if run.bottleneck:
            raise ConfigError("a bottleneck is put into a trained network: give the run it was trained in")
        if run.recipe.is_trained:
            return network
        if run.regime == "distill" and run.teacher is None:
            raise ConfigError(
                "distillation needs a trained backbone: --start RUN, made with --regime backbone; or --teacher RUN"
            )
        if run.regime == "distill" and run.frozen:
            raise ConfigError("a frozen backbone must be a trained one; give --start RUN, or --unfrozen")
        return network
    start = load_network(Path(run.start))
    try:
        added = network.load_state_dict(start.state_dict(), strict=run.bottleneck is None)
        left = [*added.unexpected_keys, *(k for k in added.missing_keys if not k.startswith("bottleneck."))]
        if left:
            raise RuntimeError(f"{left[0]} fits nothing")
    except RuntimeError as error:
        raise ConfigError(
            f"{run.start} was trained as '{load_run(Path(run.start)).provenance.recipe}', whose network is not that "
            f"of '{run.provenance.recipe}'; start from a run of the same recipe"
        ) from error
    return network


def _teacher(run: Run, network: EarlyExitNetwork) -> Teacher | None:
    if run.regime not in ("distill", "bottleneck"):
        return None
    if run.teacher is None and run.regime == "bottleneck":
        assert run.start is not None, "checked when the network was made"
        return Teacher(load_network(Path(run.start)), run.alpha, run.temperature)
    if run.teacher is None:
        # A frozen backbone teaches its own EECs: its last exit is computed on the way anyway.
        return Teacher(None if run.frozen else deepcopy(network), run.alpha, run.temperature)
    labels = load_run(Path(run.teacher)).labels
    if labels != run.labels:
        raise ConfigError(
            f"{run.teacher} knows the classes {', '.join(labels)}, this run {', '.join(run.labels)}; "
            "a teacher needs the same"
        )
    return Teacher(load_network(Path(run.teacher)), run.alpha, run.temperature)


class _Batches(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, images: LabelledImages) -> None:
        self._pixels = torch.from_numpy(images.pixels)
        self._classes = torch.from_numpy(images.classes)

    def __len__(self) -> int:
        return len(self._classes)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._pixels[index], self._classes[index]

    def __getitems__(self, index: list[int]) -> tuple[Tensor, Tensor]:
        # One indexing operation for the whole batch: the images lie in memory already.
        return self._pixels[index], self._classes[index]


class _Shuffled(Sampler[int]):
    """Another order in each epoch, the same one whether the run was interrupted before or not.

    Of several processes each takes its share of the order.
    """

    def __init__(self, count: int, seed: int, processes: int) -> None:
        self._count = count
        self._seed = seed
        self._processes = processes
        self._epoch = 0

    def __len__(self) -> int:
        return self._count // self._processes

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(epoch_seed(self._seed, self._epoch))
        order = torch.randperm(self._count, generator=generator)[: len(self) * self._processes]
        rank = torch.distributed.get_rank() if self._processes > 1 else 0
        return iter(order[rank :: self._processes].tolist())

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self._epoch = epoch


def _training_batches(
    images: LabelledImages, batch_size: int, seed: int, processes: int
) -> DataLoader[tuple[Tensor, Tensor]]:
    return DataLoader(
        _Batches(images),
        batch_size=max(1, min(batch_size, len(images)) // processes),
        sampler=_Shuffled(len(images), seed, processes),
        drop_last=True,
        collate_fn=_as_it_is,
    )


def _as_it_is(batch: Any) -> Any:
    return batch


def _check_classes(images: LabelledImages, run: Run) -> None:
    highest = int(images.classes.max())
    if highest >= len(run.labels):
        raise DataError(
            f"the data has class {highest}, but {len(run.labels)} labels were given; name them all"
        )


def _claim(directory: Path, run: Run, *, resume: bool) -> None:
    path = directory / RUN_FILE
    if path.exists():
        if not resume:
            raise ConfigError(
                f"{directory} already holds a run; go on with --resume or choose another directory"
            )
        if load_run(directory).model_dump(exclude={"provenance": {"commands", "versions"}}) != run.model_dump(
            exclude={"provenance": {"commands", "versions"}}
        ):
            raise ConfigError(
                f"{directory} holds a run with other settings; resume it with its own, to be read in {path}"
            )
        return
    directory.mkdir(parents=True, exist_ok=True)
    path.write_text(run.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _quiet() -> None:
    # Lightning's advice on loader workers and its adverts do not fit data that lies in memory.
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    # What a regime leaves frozen is in eval mode on purpose.
    warnings.filterwarnings("ignore", ".*eval mode at the start of training.*")
    warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)
    warnings.filterwarnings("ignore", ".*Checkpoint directory .* exists and is not empty.*")
