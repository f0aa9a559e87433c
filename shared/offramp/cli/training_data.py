"""Finds the photos that a training's thresholds are chosen on, if they are a part of their own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from offramp.authoring.data import LabelledImages, open_data
from offramp.bundle import Preprocessing
from offramp.bundle.provenance import CalibrationPart, Data
from offramp.cli.held_out import calibration_part
from offramp.cli.progress import console, warn
from offramp.cli.reading import Reading
from offramp.errors import ConfigError, DataError


@dataclass(frozen=True)
class Wanted:
    """What the options of `train` say about the photos to choose thresholds on.

    data: the training data. calibration: other photos. validation: how many to hold out. unlabelled: whether photos
    have no classes. reading: how to read them.
    """

    data: Path
    calibration: Path | None
    validation: int | None
    unlabelled: bool
    reading: Reading


@dataclass(frozen=True, eq=False)
class Calibration:
    """Photos to choose thresholds on, and what to call them."""

    name: str
    path: Path
    images: LabelledImages


def find_calibration(
    options: Wanted, preprocessing: Preprocessing, *, is_trained: bool
) -> Calibration | None:
    """The photos to choose thresholds on; None if they are to be held out of the training part.

    Args:
        options: what is wanted.
        preprocessing: of the network.
        is_trained: whether the backbone is trained already, on photos that nobody names; then a warning is due.

    Raises:
        ConfigError: the options contradict each other.
        DataError: the photos cannot be read.
    """
    if (path := _path(options, is_trained=is_trained)) is None:
        return None
    name = f"{path.name}/validation" if path == options.data else path.name
    if options.unlabelled:
        return Calibration(name, path, options.reading.unlabelled(path, preprocessing))
    return Calibration(name, path, calibration_part(path, preprocessing, options.reading))


def recorded(found: Calibration, images: LabelledImages) -> CalibrationPart:
    """What a run and its bundle record of the calibration part.

    Raises:
        DataError: it is what the run trains on.
    """
    fingerprint = found.images.fingerprint()
    if fingerprint == images.fingerprint():
        raise DataError(f"{found.path} is what this run trains on; thresholds need photos that it never sees")
    return CalibrationPart(name=found.name, samples=len(found.images), fingerprint=fingerprint)


def has_seen(start: Data, now: Data) -> bool:
    """Whether a run that another starts from was trained on samples that are now held out of the same data."""
    if start.fingerprint != now.fingerprint or now.split is None:
        return False
    # With the same seed, fewer samples are always among the more.
    same_order = start.split is not None and start.split.seed == now.split.seed
    return not same_order or start.held_out < now.split.validation


def relabelled(images: LabelledImages, names: tuple[str, ...]) -> LabelledImages:
    """The images with their classes numbered as in `names`.

    Raises:
        DataError: a class is not among them.
    """
    return replace(images, classes=images.classes_as(names), labels=names if images.labels else None)


def _path(options: Wanted, *, is_trained: bool) -> Path | None:
    if options.calibration is not None:
        if options.validation is not None:
            raise ConfigError(
                "--calibration names the photos to choose thresholds on, so --validation has none to hold out; leave "
                "one of them out"
            )
        return options.calibration
    if not options.unlabelled and "validation" in open_data(options.data, options.reading.kind).parts:
        if options.validation is None:
            return options.data
        console.print(
            f"--validation holds samples out of train/, so {options.data} is used without its validation part",
            highlight=False,
            soft_wrap=True,
        )
    if is_trained:
        warn(
            "the recipe's backbone is trained already: if it has seen the photos that are held out, they "
            "look easier than they are, and thresholds chosen on them are too low; give photos that it never saw as "
            "--calibration PATH, or in a folder validation/ beside train/"
        )
    return None
