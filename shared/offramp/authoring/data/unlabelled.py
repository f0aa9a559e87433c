"""Photos without labels: enough to distil a trained backbone into early exits, and to test a guarantee."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from offramp.authoring.data.image_folder import PHOTO_SUFFIXES, read_photos
from offramp.authoring.data.labelled import LabelledImages
from offramp.bundle.manifest import Preprocessing
from offramp.errors import DataError


def load_unlabelled(
    path: Path, preprocessing: Preprocessing, *, skip_unreadable: bool = False
) -> LabelledImages:
    """Read every photo below a directory, whatever its folders are called; all get class 0, which means nothing.

    Raises:
        DataError: there are no photos below the directory, or some of them cannot be read.
    """
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in PHOTO_SUFFIXES)
    if not files:
        raise DataError(
            f"{path} has no photos ({', '.join(sorted(PHOTO_SUFFIXES))}); give a directory that holds some"
        )
    photos = read_photos(files, preprocessing, skip_unreadable=skip_unreadable)
    kept = [(pixels, file) for pixels, file in zip(photos, files, strict=True) if pixels is not None]
    sources = tuple(str(file.relative_to(path)) for _, file in kept)
    return LabelledImages(
        np.stack([pixels for pixels, _ in kept]), np.zeros(len(kept), dtype=np.int64), None, sources
    )
