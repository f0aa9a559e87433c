"""JPEGs through libjpeg-turbo directly: the pixels that Pillow gives, for a small photo in a seventh of the time.

Pillow is libjpeg-turbo too, with the same transform and the same upsampling, so that the pixels are the same; what is
saved is the reading of a file in Python. Whatever libjpeg-turbo as much as warns about is left to Pillow, which knows
what to mend and what to refuse.
"""

from __future__ import annotations

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from offramp.engine.images import jpeg
from offramp.engine.images.header import Header

# By number of components. With four, a JPEG is CMYK, which Pillow turns over.
_COLORS = {1: "GRAY", 3: "RGB"}
_SCALES = (8, 4, 2)
# A large picture would have to be copied for Pillow to resize it, and takes as long either way.
_MOST_PIXELS = 1 << 20
# Below this side, sizes that libjpeg-turbo can scale to coincide.
_LEAST_SCALED = 16


def decoded(data: bytes, header: Header, at_least: tuple[int, int] | None) -> NDArray[np.uint8] | None:
    """Pixels of a JPEG as they lie in the file: uint8 (H, W) if it is grey, (H, W, 3) in RGB.

    Args:
        data: the file.
        header: of this file.
        at_least: size (width, height): it is decoded at the smallest of 1/8, 1/4, 1/2 and 1 of its size that is at
            least this; None: at its full size.

    Returns:
        None if Pillow has to look at it: it is CMYK or large, or libjpeg-turbo found anything wrong.

    Raises:
        DamageError: it goes over its pixels too often.
    """
    color = _COLORS.get(header.components)
    scale = 1 if at_least is None else _scale(header.size, at_least)
    width, height = (-(-length // scale) for length in header.size)
    if color is None or width * height > _MOST_PIXELS or (scale > 1 and min(header.size) < _LEAST_SCALED):
        return None
    # Its own memory: a file that says one size here and another there can't make libjpeg-turbo take more.
    pixels: NDArray[np.uint8] = np.empty((height, width, header.components), np.uint8)
    try:
        found = simplejpeg.decode_jpeg(
            jpeg.picture_of(data, header), color, min_width=width, min_height=height, buffer=pixels
        )
    except ValueError:
        return None
    if found.shape != pixels.shape:
        return None
    return pixels[..., 0] if color == "GRAY" else pixels


def _scale(size: tuple[int, int], at_least: tuple[int, int]) -> int:
    """What Pillow's `draft` divides by: the largest scale at which both sides are still long enough."""
    most = min(length // wanted for length, wanted in zip(size, at_least, strict=True))
    return next((scale for scale in _SCALES if scale <= most), 1)
