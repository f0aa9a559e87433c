"""The fixed split of a training part: most samples are for training, the rest are held out to choose thresholds.

The order comes from SHA-256, not from a random generator, so a seed picks the same samples whatever the versions
of the libraries.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offramp.authoring.data.labelled import LabelledImages
from offramp.bundle.provenance import Data, Split
from offramp.errors import ConfigError


@dataclass(frozen=True)
class TrainValidation:
    """The two sides of a split; no sample is in both."""

    train: LabelledImages
    validation: LabelledImages


def parts_of(
    images: LabelledImages, data: Data, calibration: LabelledImages | None = None
) -> TrainValidation:
    """What to train on, and what to choose thresholds on.

    Args:
        images: the whole training part.
        data: how it is divided.
        calibration: the samples that thresholds are chosen on, if they are a part of their own.

    Raises:
        ConfigError: no sample would be left to train on, or the calibration part is missing or not needed.
    """
    if (calibration is None) != (data.calibration is None):
        name = f"the part '{data.calibration.name}'" if data.calibration else "samples of the training part"
        raise ConfigError(f"thresholds are chosen on {name}; give just what the run's data says")
    if calibration is not None:
        return TrainValidation(train=images, validation=calibration)
    assert data.split is not None, "data without a calibration part has a split"
    return split_train(images, data.split)


def split_train(images: LabelledImages, split: Split) -> TrainValidation:
    """Hold out `split.validation` samples; the same seed always holds out the same ones.

    Raises:
        ConfigError: no sample would be left to train on.
    """
    check_split(len(images), split)
    order = hashed_order(len(images), split.seed)
    held_out, rest = np.sort(order[: split.validation]), np.sort(order[split.validation :])
    return TrainValidation(train=images.take(rest), validation=images.take(held_out))


def check_split(samples: int, split: Split) -> None:
    """Check that a split leaves samples to train on.

    Raises:
        ConfigError: none would be left; the message suggests how many to hold out.
    """
    if samples < 2:
        raise ConfigError(
            f"{samples} samples cannot be divided into training and validation; give at least 2"
        )
    if split.validation >= samples:
        raise ConfigError(
            f"{split.validation} samples are to be held out for validation, but the data has only {samples}; hold out "
            f"fewer, for example --validation {max(1, samples // 5)}"
        )


def hashed_order(count: int, seed: int) -> NDArray[np.int64]:
    """Positions 0 to count - 1, in an order that depends on the seed alone."""
    keys = [hashlib.sha256(f"{seed}:{number}".encode()).digest() for number in range(count)]
    return np.array(sorted(range(count), key=keys.__getitem__), dtype=np.int64)
