"""A training run on disk: what was asked for (`run.json`) and Lightning's checkpoints, so that it can resume."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger
from pydantic import Field, ValidationError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from offramp.bundle.manifest import Provenance, Record
from offramp.data.labelled import LabelledImages
from offramp.data.split import split_train
from offramp.errors import ConfigError, DataError
from offramp.networks.early_exit import EarlyExitNetwork
from offramp.networks.recipes import Recipe, recipe_named
from offramp.training.joint import JointTraining, epoch_seed

RUN_FILE = "run.json"
_CHECKPOINT = "last.ckpt"


class Run(Record):
    """What a run directory was made for; a resumed run must be asked for the same."""

    labels: tuple[str, ...] = Field(min_length=2)
    provenance: Provenance
    exit_weights: tuple[Annotated[float, Field(ge=0)], ...] | None = Field(
        default=None, description="w_i of the joint loss; the recipe's unless given"
    )

    @property
    def recipe(self) -> Recipe:
        """The recipe as this version knows it, with the weights of this run."""
        recipe = recipe_named(self.provenance.recipe)
        return replace(recipe, exit_weights=self.exit_weights) if self.exit_weights else recipe


def train(images: LabelledImages, run: Run, directory: Path, *, resume: bool = False) -> None:
    """Train jointly and leave the last checkpoint in `directory`; a bar shows the progress.

    Args:
        images: the whole training part; the run's split holds its validation samples out.
        run: what to train.
        directory: where checkpoints and the log of accuracies go.
        resume: go on from the last checkpoint, if there is one.

    Raises:
        ConfigError: the directory holds another run, or a run and `resume` is not set.
        DataError: a class beyond the labels.
    """
    _check_classes(images, run)
    _claim(directory, run, resume=resume)
    recipe, seed = run.recipe, run.provenance.seed
    lightning.seed_everything(seed, workers=True, verbose=False)
    parts = split_train(images, run.provenance.data.split)
    network = recipe.build(len(run.labels))
    _quiet()
    trainer = lightning.Trainer(
        accelerator="auto",
        precision="bf16-mixed",
        max_epochs=run.provenance.epochs,
        callbacks=[
            ModelCheckpoint(
                directory, filename="last", save_on_train_epoch_end=True, enable_version_counter=False
            ),
            RichProgressBar(),
        ],
        logger=CSVLogger(directory, name="log"),
        enable_model_summary=False,
        log_every_n_steps=50,
    )
    trainer.fit(
        JointTraining(network, recipe, num_classes=len(run.labels), seed=seed),
        train_dataloaders=_training_batches(parts.train, recipe.batch_size, seed),
        val_dataloaders=DataLoader(_Batches(parts.validation), batch_size=1000, collate_fn=_as_it_is),
        ckpt_path=directory / _CHECKPOINT if resume and (directory / _CHECKPOINT).exists() else None,
        weights_only=True,
    )


def load_run(directory: Path) -> Run:
    """Read `run.json`.

    Raises:
        ConfigError: it is missing or damaged.
    """
    try:
        return Run.model_validate_json((directory / RUN_FILE).read_bytes())
    except (OSError, ValidationError) as error:
        raise ConfigError(
            f"{directory} is not a training run: {error}; make one with `offramp train`"
        ) from error


def load_network(directory: Path) -> EarlyExitNetwork:
    """The network of a run with the weights of its last checkpoint, ready for inference.

    Raises:
        ConfigError: no run or no checkpoint there.
    """
    run = load_run(directory)
    path = directory / _CHECKPOINT
    if not path.exists():
        raise ConfigError(f"{directory} has no {_CHECKPOINT}: the run has not finished its first epoch")
    network = run.recipe.build(len(run.labels))
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    prefix = "network."
    network.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    return network.eval()


def library_versions() -> dict[str, str]:
    """Versions of the libraries that a training's outcome depends on."""
    return {name: version(name) for name in ("offramp", "torch", "lightning", "numpy")}


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
    """Another order in each epoch, the same one whether the run was interrupted before or not."""

    def __init__(self, count: int, seed: int) -> None:
        self._count = count
        self._seed = seed
        self._epoch = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(epoch_seed(self._seed, self._epoch))
        return iter(torch.randperm(self._count, generator=generator).tolist())

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self._epoch = epoch


def _training_batches(
    images: LabelledImages, batch_size: int, seed: int
) -> DataLoader[tuple[Tensor, Tensor]]:
    return DataLoader(
        _Batches(images),
        batch_size=min(batch_size, len(images)),
        sampler=_Shuffled(len(images), seed),
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
    warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)
    warnings.filterwarnings("ignore", ".*Checkpoint directory .* exists and is not empty.*")
