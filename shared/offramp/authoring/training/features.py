"""Features computed once and kept on disk, so that no epoch runs the frozen blocks again.

Each file holds one thing that the learning parts take (`Front.names`), for all photos of the training or the validation
part and all views of them. It is named after everything that decides its values, so trainings can share a directory.

Shapes: N photos, V views of each.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from offramp.authoring.data.labelled import LabelledImages
from offramp.authoring.data.split import TrainValidation
from offramp.authoring.networks.normalise import Normalise
from offramp.authoring.training.augment import augment
from offramp.authoring.training.feature_file import FeatureFile, writing
from offramp.authoring.training.frozen import Front
from offramp.authoring.training.pixels import PixelChanges
from offramp.authoring.training.run import Run
from offramp.errors import ConfigError
from offramp.logs import line

_log = logging.getLogger("offramp.train")

_LOGGED_EVERY_S = 30.0
_VALUES_AT_ONCE = 2**23  # pixels of a batch, times channels
_PROBED = 4  # photos that are computed again before a file is used again
_ALIKE = 0.02  # of the largest value; rounding to float16 and another batch size make less of a difference
_HALF = (
    1e-3,
    6e3,
)  # least root mean square and largest value, in the first batch, of what is kept as float16


@dataclass(frozen=True)
class CachedPart:
    """What the learning parts take from one part of the data.

    files: by name, each with V · N rows: first view 1 of every photo, then view 2 of every photo. classes: int64 (N,).
    """

    files: Mapping[str, FeatureFile]
    classes: NDArray[np.int64]
    views: int


@dataclass(frozen=True)
class CachedParts:
    """The training part in all views, and the validation part as plain photos."""

    train: CachedPart
    validation: CachedPart


def cache_features(front: Front, parts: TrainValidation, run: Run, directory: Path) -> CachedParts:
    """Compute the features that the directory does not have yet.

    View 1 is the plain photo, the others are augmented. Values are kept as float16, which is more exact than the
    bfloat16 that training computes in; or as float32 if their size asks for it. If another training is computing
    features in this directory, wait for it.

    Raises:
        ConfigError: they do not fit on the disk, or are NaN or infinite.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with _locked(directory):
        for half in directory.glob("*.part"):
            half.unlink()  # left by a training that was interrupted
        train = _Source(front, parts.train, run, "train", run.cached_views, directory)
        validation = _Source(front, parts.validation, run, "validation", 1, directory)
        _check_space(directory, train.missing_bytes + validation.missing_bytes, train.describe())
        for source in (train, validation):
            source.write()
        front.to(torch.device("cpu"))
        return CachedParts(train.cached(), validation.cached())


def remove_features(directory: Path) -> None:
    """Remove a run's own cached features, if there are any."""
    if directory.is_dir() and not getattr(rank_zero_only, "rank", 0):
        shutil.rmtree(directory)


class _Source:
    """One part of the data, and the files that its features are in, or will be."""

    def __init__(
        self, front: Front, images: LabelledImages, run: Run, part: str, views: int, directory: Path
    ) -> None:
        self._front, self._images, self._part, self._views = front, images, part, views
        self._recipe, self._seed = run.recipe, run.provenance.seed
        self._normalise = Normalise(run.recipe.preprocessing)
        self._change_pixels = PixelChanges(run.recipe.augmentation, run.recipe.preprocessing)
        self._batch = max(1, min(500, _VALUES_AT_ONCE // math.prod(run.recipe.preprocessing.pixel_shape)))
        decides = {
            "data": run.provenance.data.model_dump(mode="json", exclude={"name"}),
            "part": part,
            "preprocessing": run.recipe.preprocessing.model_dump(mode="json"),
            "views": (views, run.recipe.augmentation.model_dump(mode="json"), self._seed)
            if views > 1
            else None,
        }
        self._paths = {name: directory / self._file_name(name, decides) for name in front.names}
        first = self._computed(0, 0, front.names)
        self._dtypes = {name: _dtype_of(name, values) for name, values in first.items()}
        self._probe = {name: values[:_PROBED] for name, values in first.items()}
        self._missing = [name for name, path in self._paths.items() if not self._is_valid(name, path)]

    def _file_name(self, name: str, decides: Mapping[str, Any]) -> str:
        digest = hashlib.sha256((self._front.digest(name) + json.dumps(decides, sort_keys=True)).encode())
        return f"{self._part}-{name}-{digest.hexdigest()[:16]}.npy"

    def _is_valid(self, name: str, path: Path) -> bool:
        probe = self._probe[name]
        try:
            file = FeatureFile(path)
        except (OSError, ValueError):
            return False
        if (file.rows, file.shape) != (self._rows, probe.shape[1:]):
            return False
        off = np.abs(file.read(range(len(probe))).astype(np.float32) - probe).max()
        return bool(off <= _ALIKE * np.abs(probe).max())

    @property
    def _rows(self) -> int:
        return self._views * len(self._images)

    @property
    def missing_bytes(self) -> int:
        """Size of the files that have to be written."""
        return self._rows * sum(
            math.prod(self._probe[name].shape[1:]) * self._dtypes[name].itemsize for name in self._missing
        )

    def describe(self) -> str:
        """How many photos and views, and the shapes of their features."""
        shapes = ", ".join(f"{name} {values.shape[1:]}" for name, values in self._probe.items())
        return f"{len(self._images):,} photos x {self._views} views: {shapes}"

    def write(self) -> None:
        """Compute what is missing, in all views."""
        if not self._missing:
            return
        _log.info(line("features", part=self._part, photos=len(self._images), data_bytes=self.missing_bytes))
        with ExitStack() as stack:
            writers = {
                name: stack.enter_context(
                    writing(self._paths[name], self._rows, self._probe[name].shape[1:], self._dtypes[name])
                )
                for name in self._missing
            }
            advance = stack.enter_context(_progress(f"features of {self._part} photos", len(self._images)))
            for start in range(0, len(self._images), self._batch):
                for view in range(self._views):
                    for name, values in self._computed(start, view, self._missing).items():
                        _check_finite(name, values)
                        writers[name].write(values, view * len(self._images) + start)
                advance(min(self._batch, len(self._images) - start))

    def _computed(self, start: int, view: int, names: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Features of one batch, in one view."""
        device = _device()
        pixels = torch.from_numpy(np.asarray(self._images.pixels[start : start + self._batch])).to(device)
        normalise = self._normalise.to(device)
        with torch.random.fork_rng():
            torch.manual_seed(hash((self._seed, view, start)))
            image_BCHW: Tensor = normalise(self._change_pixels(pixels) if view else pixels)
            if view:
                image_BCHW = augment(image_BCHW, self._recipe.augmentation)
        found = self._front.to(device).compute(image_BCHW, names)
        return {name: value.float().cpu().contiguous().numpy() for name, value in found.items()}

    def cached(self) -> CachedPart:
        """The files, all written."""
        files = {name: FeatureFile(path) for name, path in self._paths.items()}
        return CachedPart(files, self._images.classes, self._views)


@contextmanager
def _progress(text: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, log lines elsewhere; yields the function that advances it."""
    done, logged_s = 0, time.monotonic()
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(text, total=total)

        def advance(count: int) -> None:
            nonlocal done, logged_s
            done += count
            bar.advance(task, count)
            if not console.is_terminal and time.monotonic() - logged_s >= _LOGGED_EVERY_S:
                logged_s = time.monotonic()
                _log.info(line("features", done=done, of=total))

        yield advance


def _device() -> torch.device:
    return torch.accelerator.current_accelerator() or torch.device("cpu")


def _dtype_of(name: str, values: NDArray[np.float32]) -> np.dtype[Any]:
    _check_finite(name, values)
    size, largest = float(np.sqrt(np.square(values).mean())), float(np.abs(values).max())
    return np.dtype(np.float16 if _HALF[0] <= size and largest <= _HALF[1] else np.float32)


def _check_finite(name: str, values: NDArray[np.float32]) -> None:
    if not np.isfinite(values).all():
        raise ConfigError(
            f"the frozen part computes NaN or infinite values ({name}); check its weights and the preprocessing"
        )


def _check_space(directory: Path, needed: int, what: str) -> None:
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise ConfigError(
            f"the cached features need {needed / 1e9:.2f} GB, but {directory} has {free / 1e9:.2f} GB free ({what}); "
            "choose another disk with --features DIR, fewer --views, or --views 0 to compute them anew in each epoch"
        )


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    # The lock is released when the process ends, however it ends.
    with (directory / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            _log.info(line("unlocked", directory=directory))  # a file system without locks
        yield
