"""One photo of a data set: from a file's bytes to pixels."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from offramp.authoring.data.container import Container
from offramp.bundle.manifest import Preprocessing
from offramp.engine.images import open_images
from offramp.errors import DataError, RequestError


def read_photo(
    container: Container, name: str, preprocessing: Preprocessing
) -> tuple[NDArray[np.uint8], int]:
    """One photo as a node would see it; BMP, which nodes refuse, is read as well.

    Returns:
        Pixels, uint8 (H, W, C), and the size of the file if a node would send it on; otherwise 0.

    Raises:
        DataError: the file cannot be read, or is not a photo.
    """
    data = container.read(name)
    try:
        is_bmp = data[:2] == b"BM"
        opened = open_images([_as_png(data) if is_bmp else data])
        pixels: NDArray[np.uint8] = opened.decode(preprocessing)[0]
        return pixels, 0 if is_bmp or opened.files[0] is None else len(data)
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
