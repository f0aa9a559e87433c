"""The pixels that the network sees of a photo, by the preprocessing that the edge node publishes with its bundle."""

from __future__ import annotations

import io
from dataclasses import dataclass

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
    png = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if preprocessing.mode == "L" else pixels).save(png, "PNG")
    return Seen(png.getvalue(), words)
