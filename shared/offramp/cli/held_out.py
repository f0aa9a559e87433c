"""Finds the samples that a bundle's training never saw, in the data it was trained on."""

from __future__ import annotations

from pathlib import Path

from offramp.authoring.data import LabelledImages, load_images, load_unlabelled, split_train
from offramp.bundle import Manifest
from offramp.bundle.provenance import Data
from offramp.errors import ConfigError, DataError


def held_out(
    manifest: Manifest, data: Path, bundle: Path, *, skip_unreadable: bool = False
) -> LabelledImages:
    """The validation part that training held out.

    Raises:
        ConfigError: the bundle does not say how the data was split.
        DataError: this is not the data it was trained on.
    """
    if manifest.provenance is None:
        raise ConfigError(f"{bundle} does not say which samples trained it, so none can be held out")
    origin = manifest.provenance.data
    if origin.labelled:
        images = load_images(data, "train", manifest.preprocessing, skip_unreadable=skip_unreadable)
    else:
        images = load_unlabelled(data, manifest.preprocessing, skip_unreadable=skip_unreadable)
    return same_held_out(images, origin, data)


def same_held_out(images: LabelledImages, origin: Data, path: Path) -> LabelledImages:
    """The validation part of `images`, after a check that the network was trained on these images.

    Raises:
        DataError: it was trained on other images.
    """
    if images.fingerprint() != origin.fingerprint:
        raise DataError(
            f"{path} is not the data this network was trained on ({origin.name}, {origin.samples} samples), so its "
            "held-out samples cannot be told from those it was trained on; give the same data"
        )
    return split_train(images, origin.split).validation
