"""One photo of a data set: from a file's bytes to pixels."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from offramp.authoring.data.container import Container
from offramp.bundle.manifest import Preprocessing
from offramp.engine.images import decode_image
from offramp.errors import DataError, RequestError


def read_photo(container: Container, name: str, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """One photo's pixels, uint8 (H, W, C), as a node would see them; BMP, which nodes refuse, is read as well.

    Raises:
        DataError: the file cannot be read, or is not a photo.
    """
    data = container.read(name)
    try:
        return decode_image(_as_png(data) if data[:2] == b"BM" else data, preprocessing)
    except RequestError as error:
        raise DataError(f"{container.path}/{name}: {error}") from error


def _as_png(data: bytes) -> bytes:
    file = io.BytesIO()
    try:
        with Image.open(io.BytesIO(data), formats=["BMP"]) as image:
            image.save(file, "PNG", compress_level=0)
    except MemoryError:
        raise
    except Exception as error:
        # Pillow's decoders raise all kinds of exceptions on damaged data.
        raise RequestError(f"BMP image of {len(data)} bytes cannot be decoded: {error}") from error
    return file.getvalue()
