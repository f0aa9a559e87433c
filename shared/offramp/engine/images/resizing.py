"""Resizes an image with the library that the bundle names."""

from __future__ import annotations

from collections.abc import Mapping

from cykooz_resizer import CropBox, FilterType, ImageData, PixelType, ResizeAlg, ResizeOptions, Resizer
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
    if preprocessing.resizer == "pillow" or kind is None or image.width * image.height > _MOST_PIXELS:
        return image.resize(size, FILTERS[preprocessing.interpolation], box=box)
    left, upper, right, lower = box or (0.0, 0.0, *image.size)
    options = ResizeOptions(
        resize_alg=_BILINEAR, crop_box=CropBox(left, upper, right - left, lower - upper), use_alpha=False
    )
    found = ImageData(*size, kind)
    Resizer().resize(ImageData(*image.size, kind, image.tobytes()), found, options)
    return Image.frombytes(image.mode, size, found.get_buffer())
