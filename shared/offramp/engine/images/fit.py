"""From a decoded picture to pixels of the network's size and mode: upright, resized, cropped or padded."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from offramp.bundle.preprocessing import Preprocessing
from offramp.engine.images.resizing import Box, resized, resized_pixels

# With these, resizing only what a crop keeps gives the pixels of resizing all of it, within a level. With the others,
# which overshoot, it matters whether Pillow resizes across or down first, and it decides that by the sizes.
_WITHIN_A_LEVEL = {"bilinear", "area"}

_UPRIGHT_BY = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """The decoded image as it was meant to be seen, by the EXIF orientation that it is in, 1 to 8."""
    turn = _UPRIGHT_BY.get(orientation)
    return image if turn is None else image.transpose(turn)


def seen_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """The size (width, height) of an image that is turned upright, and back."""
    return size[::-1] if orientation >= 5 else size


def fitted(image: Image.Image, preprocessing: Preprocessing, whole: tuple[int, int]) -> NDArray[np.uint8]:
    """Bring an upright image to the network's size and mode: uint8 pixels (H, W, C).

    Args:
        image: the decoded picture.
        whole: size (width, height) that the whole picture is resized to before it is cropped or padded.
    """
    target = (preprocessing.width, preprocessing.height)
    image = _plain(image)
    if whole == target:
        if image.size != target:
            # Shrink first, so that the conversions in `_finished` do not copy a large image.
            image = resized(image, target, preprocessing)
    else:
        image = _centre(image, whole, target, preprocessing)
    return _finished(image, preprocessing)


def fitted_pixels(
    pixels: NDArray[np.uint8], preprocessing: Preprocessing, whole: tuple[int, int]
) -> NDArray[np.uint8] | None:
    """Bring the pixels of an upright, opaque image to the network's size, if that needs nothing of Pillow.

    Args:
        pixels: uint8 (H, W) or (H, W, 3).
        whole: as in `fitted`.

    Returns:
        uint8 pixels (H, W, C), the same as `fitted` gives; None if Pillow has to convert, pad or resize them.
    """
    size, target = pixels.shape[1::-1], (preprocessing.width, preprocessing.height)
    if (preprocessing.mode == "L") != (pixels.ndim == 2):
        return None
    if size == whole == target:
        return pixels.reshape(preprocessing.pixel_shape)
    box = _kept(whole, target)
    if (box[2] - box[0], box[3] - box[1]) != target:
        return None
    if size == whole:
        kept: NDArray[np.uint8] | None = np.ascontiguousarray(pixels[box[1] : box[3], box[0] : box[2]])
    else:
        kept = resized_pixels(pixels, target, preprocessing, _unscaled(box, size, whole))
    return None if kept is None else kept.reshape(preprocessing.pixel_shape)


def cut_out(image: Image.Image, preprocessing: Preprocessing, box: Box) -> NDArray[np.uint8]:
    """Resize a part of an upright image to the network's size and mode: uint8 pixels (H, W, C).

    Args:
        image: the decoded picture.
        box: left, upper, right and lower border of the part, as fractions of the picture.
    """
    width, height = image.size
    left, upper, right, lower = box
    part = (left * width, upper * height, right * width, lower * height)
    size = (preprocessing.width, preprocessing.height)
    return _finished(resized(_plain(image), size, preprocessing, part), preprocessing)


def _centre(
    image: Image.Image, whole: tuple[int, int], target: tuple[int, int], preprocessing: Preprocessing
) -> Image.Image:
    """What a crop of the target's size around the centre keeps of an image that is resized to `whole`."""
    box = _kept(whole, target)
    size = (box[2] - box[0], box[3] - box[1])
    if image.size != whole:
        if preprocessing.interpolation in _WITHIN_A_LEVEL and size != whole:
            return resized(image, size, preprocessing, _unscaled(box, image.size, whole))
        image = resized(image, whole, preprocessing)
    return image if size == whole else image.crop(box)


def _kept(whole: tuple[int, int], target: tuple[int, int]) -> tuple[int, int, int, int]:
    """Left, upper, right and lower border of what is left of an image of the size `whole`, cropped to the target's."""
    width, height = (min(sides) for sides in zip(whole, target, strict=True))
    # Python rounds halves to the even number, and so does torchvision's CenterCrop.
    left, upper = round((whole[0] - width) / 2), round((whole[1] - height) / 2)
    return left, upper, left + width, upper + height


def _unscaled(box: tuple[int, int, int, int], size: tuple[int, int], whole: tuple[int, int]) -> Box:
    """The part of an image that becomes `box` of it once it is resized from `size` to `whole`."""
    left, upper, right, lower = box
    across, down = size[0] / whole[0], size[1] / whole[1]
    return left * across, upper * down, min(right * across, size[0]), min(lower * down, size[1])


def _finished(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    if image.mode == "RGBA":
        behind = Image.new("RGBA", image.size, _rgba(preprocessing.background))
        image = Image.alpha_composite(behind, image)
    if image.mode != preprocessing.mode:
        image = image.convert(preprocessing.mode)
    height, width, _ = preprocessing.pixel_shape
    if image.size != (width, height):
        padded = Image.new(preprocessing.mode, (width, height), _pad_color(preprocessing))
        padded.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
        image = padded
    return np.frombuffer(image.tobytes(), dtype=np.uint8).reshape(preprocessing.pixel_shape)


def _plain(image: Image.Image) -> Image.Image:
    """The image in one of the modes that can be resized: L, RGB, RGBA."""
    if image.mode.startswith("I"):
        return _of_16_bits(image)
    if image.has_transparency_data:
        return image if image.mode == "RGBA" else image.convert("RGBA")
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _of_16_bits(image: Image.Image) -> Image.Image:
    # Pillow's own conversion clips at 255, which turns a 16-bit photo white.
    values = np.asarray(image)
    grey = Image.fromarray((values >> 8).clip(0, 255).astype(np.uint8))
    clear = image.info.get("transparency")
    if clear is None:
        return grey
    opaque = Image.fromarray(np.where(values == clear, np.uint8(0), np.uint8(255)))
    return Image.merge("RGBA", (grey, grey, grey, opaque))


def _rgba(color: int | tuple[int, int, int]) -> tuple[int, int, int, int]:
    red, green, blue = color if isinstance(color, tuple) else (color, color, color)
    return red, green, blue, 255


def _pad_color(preprocessing: Preprocessing) -> int | tuple[int, int, int]:
    color = preprocessing.pad_color
    return color if preprocessing.mode == "L" or isinstance(color, tuple) else (color, color, color)
