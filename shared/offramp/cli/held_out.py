"""Finds the samples that a bundle's thresholds are chosen on, which its training never saw."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from offramp.authoring.data import LabelledImages, open_data, split_train
from offramp.bundle import Bundle, Manifest, Preprocessing
from offramp.bundle.provenance import CalibrationPart, Data
from offramp.cli.reading import Reading
from offramp.errors import ConfigError, DataError


def origin_of(manifest: Manifest, bundle: Path) -> Data:
    """The data that a bundle was trained on.

    Raises:
        ConfigError: the bundle does not say.
    """
    if manifest.provenance is None:
        raise ConfigError(f"{bundle} does not say which samples trained it, so none can be held out")
    return manifest.provenance.data


def held_out(origin: Data, preprocessing: Preprocessing, path: Path, reading: Reading) -> LabelledImages:
    """The samples to choose thresholds on.

    Args:
        origin: the data that the network was trained on.
        preprocessing: of the network.
        path: the same data; if thresholds are chosen on a part of its own, that part may be given as well.
        reading: how to read it.

    Raises:
        DataError: this is other data.
    """
    if origin.calibration is not None:
        return _same_part(path, origin.calibration, calibration_part(path, preprocessing, reading, origin))
    assert origin.split is not None, "data without a calibration part has a split"
    return split_train(training_part(origin, preprocessing, path, reading), origin.split).validation


def training_part(origin: Data, preprocessing: Preprocessing, path: Path, reading: Reading) -> LabelledImages:
    """The samples that the network was trained on, with those that were held out of them.

    Raises:
        DataError: this is other data.
    """
    images = _training(origin, preprocessing, path, reading)
    if images.fingerprint() != origin.fingerprint:
        raise DataError(
            f"{path} is not the data this network was trained on ({origin.name}, {origin.samples} samples), so its "
            "held-out samples cannot be told from those it was trained on; give the same data"
        )
    return images


def _training(origin: Data, preprocessing: Preprocessing, path: Path, reading: Reading) -> LabelledImages:
    if origin.labelled:
        return reading.part(path, "train", preprocessing)
    return reading.unlabelled(path, preprocessing)


def read_as(
    preprocessing: Preprocessing, bundle: Bundle, data: Path, calibration: Path, reading: Reading
) -> Bundle:
    """The bundle with other preprocessing, and with the fingerprints that the same data has when it is read so.

    Args:
        preprocessing: from now on.
        bundle: as it was.
        data: what its network was trained on.
        calibration: the photos that thresholds are chosen on, or the data that they belong to.
        reading: how to read them.

    Raises:
        ConfigError: the bundle does not say what it was trained on.
        DataError: this is other data.
    """
    manifest, provenance = bundle.manifest, bundle.manifest.provenance
    origin = origin_of(manifest, bundle.directory)
    assert provenance is not None, "it says what it was trained on"
    training_part(origin, manifest.preprocessing, data, reading)
    changes: dict[str, object] = {
        "fingerprint": _training(origin, preprocessing, data, reading).fingerprint()
    }
    if origin.calibration is not None:
        held_out(origin, manifest.preprocessing, calibration, reading)
        part = calibration_part(calibration, preprocessing, reading, origin)
        changes["calibration"] = origin.calibration.model_copy(update={"fingerprint": part.fingerprint()})
    provenance = provenance.model_copy(update={"data": origin.model_copy(update=changes)})
    changed = manifest.model_copy(update={"preprocessing": preprocessing, "provenance": provenance})
    return replace(bundle, manifest=changed)


def calibration_part(
    path: Path, preprocessing: Preprocessing, reading: Reading, origin: Data | None = None
) -> LabelledImages:
    """The validation part of a data set, or all of it if it has no parts.

    Raises:
        DataError: it has other parts only, or cannot be read.
    """
    if origin is not None and not origin.labelled:
        return reading.unlabelled(path, preprocessing)
    parts = open_data(path, reading.kind).parts
    if parts and "validation" not in parts:
        wanted = f"{_described(origin.calibration)}, so " if origin and origin.calibration else ""
        raise DataError(
            f"{path} has {', '.join(sorted(parts))} but no validation part; {wanted}give a folder or an archive with a "
            "validation part, or without any parts"
        )
    return reading.part(path, "validation", preprocessing)


def photos_for(
    bundle: Bundle, data: Path, calibration: Path, reading: Reading, *, most: int = 10_000
) -> tuple[LabelledImages, LabelledImages]:
    """Photos that a network was trained on, and those held-out ones that no guarantee is tested on.

    Args:
        bundle: of the network.
        data: what it was trained on.
        calibration: the photos that thresholds are chosen on, or the data that they belong to.
        reading: how to read them.
        most: this many training photos, spread over all of them, at most.

    Raises:
        ConfigError: the bundle does not say what it was trained on.
        DataError: this is other data.
    """
    from offramp.authoring.selection.guarantee import halves

    origin, preprocessing = origin_of(bundle.manifest, bundle.directory), bundle.manifest.preprocessing
    training = training_part(origin, preprocessing, data, reading)
    if origin.split is not None:
        sides = split_train(training, origin.split)
        training, unseen = sides.train, sides.validation
    else:
        unseen = held_out(origin, preprocessing, calibration, reading)
    if len(training) > most:
        training = training.take(np.linspace(0, len(training) - 1, most).astype(np.int64))
    return training, unseen.take(halves(len(unseen))[0])


def signed(manifest: Manifest, command: str) -> Manifest:
    """The manifest with the command that changed its blocks; those that chose thresholds before it count no longer."""
    provenance = manifest.provenance
    assert provenance is not None, "its origin was read"
    kept = (each for each in provenance.commands if not each.startswith("offramp calibrate "))
    return manifest.model_copy(
        update={"provenance": provenance.model_copy(update={"commands": (*kept, command)})}
    )


def _same_part(path: Path, expected: CalibrationPart, images: LabelledImages) -> LabelledImages:
    if images.fingerprint() != expected.fingerprint:
        raise DataError(
            f"{path} has {len(images)} other samples; {_described(expected)}, so give that or the data it belongs to"
        )
    return images


def _described(part: CalibrationPart) -> str:
    return f"this network's thresholds are chosen on '{part.name}' with {part.samples} samples"
