"""Resizes an image with the library that the bundle names."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from cykooz_resizer import CropBox, FilterType, ImageData, PixelType, ResizeAlg, ResizeOptions, Resizer
from numpy.typing import NDArray
from PIL import Image

from offramp.bundle.preprocessing import Preprocessing

Box = tuple[float, float, float, float]

FILTERS: Mapping[str, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "area": Image.Resampling.BOX,
}
_KINDS = {"L": PixelType.U8, "RGB": PixelType.U8x3}
_BILINEAR = ResizeAlg.convolution(FilterType.bilinear)
# It takes a copy of the pixels, which the memory that a large image may take does not allow for.
_MOST_PIXELS = 1 << 20


def resized(
    image: Image.Image, size: tuple[int, int], preprocessing: Preprocessing, box: Box | None = None
) -> Image.Image:
    """An image at another size: by Pillow, if the bundle does not name another library, or the image is transparent.

    Args:
        image: in mode L, RGB or RGBA; one of more than a megapixel is resized by Pillow in any case.
        size: width and height.
        preprocessing: names the library and the filter, which looks beyond the box.
        box: left, upper, right and lower border, in pixels, of what is resized; None: all of it.
    """
    kind = _KINDS.get(image.mode)
    if kind is None or not _is_fast(image.size, preprocessing):
        return image.resize(size, FILTERS[preprocessing.interpolation], box=box)
    given = ImageData(*image.size, kind, image.tobytes())
    return Image.frombytes(image.mode, size, _scaled(given, size, box or (0.0, 0.0, *image.size), kind))


def resized_pixels(
    pixels: NDArray[np.uint8], size: tuple[int, int], preprocessing: Preprocessing, box: Box
) -> NDArray[np.uint8] | None:
    """Pixels at another size: what `resized` gives, but without Pillow's memory, which takes longer than resizing.

    Args:
        pixels: uint8 (H, W) or (H, W, 3).
        size: width and height.
        preprocessing: names the library.
        box: as in `resized`.

    Returns:
        uint8 pixels (H, W) or (H, W, 3); None if Pillow has to resize them.
    """
    height, width = pixels.shape[:2]
    if not _is_fast((width, height), preprocessing):
        return None
    kind = _KINDS["L" if pixels.ndim == 2 else "RGB"]
    found = _scaled(ImageData(width, height, kind, pixels.tobytes()), size, box, kind)
    return np.frombuffer(found, np.uint8).reshape(size[1], size[0], *pixels.shape[2:])


def _is_fast(size: tuple[int, int], preprocessing: Preprocessing) -> bool:
    return preprocessing.resizer == "fast_image_resize" and size[0] * size[1] <= _MOST_PIXELS


def _scaled(given: ImageData, size: tuple[int, int], box: Box, kind: PixelType) -> bytes:
    left, upper, right, lower = box
    options = ResizeOptions(
        resize_alg=_BILINEAR, crop_box=CropBox(left, upper, right - left, lower - upper), use_alpha=False
    )
    found = ImageData(*size, kind)
    Resizer().resize(given, found, options)
    pixels: bytes = found.get_buffer()
    return pixels
