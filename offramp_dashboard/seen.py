"""What is shown of a photo: a thumbnail, and the pixels that the network sees by its bundle's preprocessing."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from offramp.bundle import Preprocessing
from offramp.bundle.in_words import photo_in_words
from offramp.engine.images import decode_image, photo_size
from offramp.errors import RequestError


@dataclass(frozen=True)
class Seen:
    """A PNG with the network's pixels, and what was done to the photo for them, in words."""

    png: bytes
    words: str


def seen_by_the_network(image: bytes, preprocessing: Preprocessing) -> Seen | None:
    """What the network sees of a photo; None if this machine cannot decode it, such as HEIC without the extra heif."""
    try:
        pixels = decode_image(image, preprocessing)
        words = photo_in_words(preprocessing, photo_size(image))
    except RequestError:
        return None
    return Seen(_encoded(pixels.squeeze(2) if preprocessing.mode == "L" else pixels, "PNG"), words)


def thumbnail(image: bytes, side: int) -> bytes | None:
    """The photo, upright and at most `side` pixels wide and high; None if this machine cannot decode it."""
    try:
        width, height = photo_size(image)
        scale = min(1.0, side / max(width, height))
        small = Preprocessing(
            height=max(1, round(scale * height)),
            width=max(1, round(scale * width)),
            mode="RGB",
            mean=(0.0,) * 3,
            std=(1.0,) * 3,
        )
        pixels = decode_image(image, small)
    except RequestError:
        return None
    # A photo of a few pixels is drawn enlarged, where JPEG would show.
    return _encoded(pixels, "PNG" if scale == 1 else "JPEG")


def _encoded(pixels: NDArray[np.uint8], kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()
