"""Photos without classes: enough for an early exit to learn from a trained backbone, and for a guarantee."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from offramp.bundle.manifest import Preprocessing
from offramp.data.image_folder import PHOTO_SUFFIXES, read_photo
from offramp.data.labelled import LabelledImages
from offramp.errors import DataError


def load_unlabelled(path: Path, preprocessing: Preprocessing) -> LabelledImages:
    """Read every photo below a directory, whatever its folder is called; all are of class 0, which says nothing.

    Raises:
        DataError: no directory, no photos in it, or one that cannot be read, named.
    """
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in PHOTO_SUFFIXES)
    if not files:
        raise DataError(
            f"{path} has no photos ({', '.join(sorted(PHOTO_SUFFIXES))}); give a directory that holds some"
        )
    pixels = np.stack([read_photo(file, preprocessing) for file in files])
    sources = tuple(str(file.relative_to(path)) for file in files)
    return LabelledImages(pixels, np.zeros(len(files), dtype=np.int64), None, sources)
