"""Loads labelled images in any layout: an IDX directory, an image folder, or a zip of an image folder."""

from __future__ import annotations

from pathlib import Path

from offramp.authoring.data.idx import holds_idx, load_idx
from offramp.authoring.data.image_folder import load_image_folder
from offramp.authoring.data.labelled import LabelledImages, Part
from offramp.bundle.manifest import Preprocessing
from offramp.errors import DataError


def load_images(
    path: Path, part: Part, preprocessing: Preprocessing, *, skip_unreadable: bool = False
) -> LabelledImages:
    """Read the training or the test part of a data set in any layout, at the size and mode of `preprocessing`.

    Raises:
        DataError: the path does not exist, or has nothing that can be read.
    """
    if not path.exists():
        raise DataError(
            f"{path} does not exist; expected a directory of IDX files, an image folder or its zip"
        )
    if holds_idx(path):
        return load_idx(path, part, preprocessing)
    return load_image_folder(path, part, preprocessing, skip_unreadable=skip_unreadable)
