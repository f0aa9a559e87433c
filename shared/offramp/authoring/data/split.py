"""The fixed division of a training part: most for training, the rest held out to choose thresholds on.

The order comes from SHA-256, not from a random generator, so that every version of every library draws the
same samples from the same seed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offramp.authoring.data.labelled import LabelledImages
from offramp.bundle.provenance import Split
from offramp.errors import ConfigError


@dataclass(frozen=True)
class TrainValidation:
    """The two sides of a split training part; no sample is in both."""

    train: LabelledImages
    validation: LabelledImages


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
    """Look whether a split leaves something to train on.

    Raises:
        ConfigError: it does not; the message says how many samples may be held out.
    """
    if samples < 2:
        raise ConfigError(
            f"{samples} samples cannot be divided into training and validation; give at least 2"
        )
    if split.validation >= samples:
        raise ConfigError(
            f"{split.validation} samples are to be held out for validation, but the data has only {samples}; hold out "
            f"fewer, as with --validation {max(1, samples // 5)}"
        )


def hashed_order(count: int, seed: int) -> NDArray[np.int64]:
    """Positions 0 to count - 1 in an order that only the seed decides."""
    keys = [hashlib.sha256(f"{seed}:{number}".encode()).digest() for number in range(count)]
    return np.array(sorted(range(count), key=keys.__getitem__), dtype=np.int64)
