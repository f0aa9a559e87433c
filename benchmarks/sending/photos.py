"""The photos that are sent: as they are in a data set, or enlarged to what a camera makes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from math import sqrt
from pathlib import Path

import numpy as np
from PIL import Image

from offramp.authoring.data.load import open_data
from offramp.errors import DataError


def photos_of(path: Path, count: int, *, megapixels: float | None = None) -> Sequence[bytes]:
    """Files of test photos, spaced evenly.

    Raises:
        DataError: the data set has no files.
    """
    listing = open_data(path).find("test")
    if listing is None:
        raise DataError(f"{path} has no photos in files; give a data set that has")
    chosen = np.linspace(0, len(listing) - 1, min(count, len(listing))).astype(int)
    files = [listing.container.read(listing.names[number]) for number in chosen]
    return files if megapixels is None else [_enlarged(file, megapixels) for file in files]


def _enlarged(file: bytes, megapixels: float) -> bytes:
    image = Image.open(io.BytesIO(file)).convert("RGB")
    times = sqrt(megapixels * 1e6 / (image.width * image.height))
    larger = image.resize((round(image.width * times), round(image.height * times)), Image.Resampling.BICUBIC)
    written = io.BytesIO()
    larger.save(written, "JPEG", quality=90)
    return written.getvalue()
