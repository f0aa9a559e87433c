"""From the bytes of an image file to the uint8 pixels that block 1 takes; safe for bytes from a stranger."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from offramp.bundle.manifest import Preprocessing
from offramp.errors import OfframpError, RequestError, TooLargeError, UnsupportedMediaError

FORMATS = ("JPEG", "PNG", "WEBP")

# What brings a photo upright, by its EXIF orientation.
_TURNS: Mapping[Any, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, kw_only=True)
class ImageLimits:
    """What an image may claim to be before it is decoded; checked on the header alone."""

    max_pixels: int = 50_000_000
    max_aspect_ratio: float = 20.0


DEFAULT_LIMITS = ImageLimits()


def decode_image(
    data: bytes, preprocessing: Preprocessing, *, limits: ImageLimits = DEFAULT_LIMITS
) -> NDArray[np.uint8]:
    """Decode a JPEG, PNG or WebP and bring it to the bundle's size and mode.

    EXIF orientation is applied, transparency is laid over black, and the image is stretched (not cropped)
    to (H, W) with an antialiased bilinear filter. An image of that size already is not resampled.

    Returns:
        uint8 pixels (H, W, C).

    Raises:
        UnsupportedMediaError: the bytes are not a JPEG, PNG or WebP.
        TooLargeError: the header claims more pixels than `limits` allow.
        RequestError: empty, truncated or damaged data, or an aspect ratio beyond `limits`.
    """
    if not data:
        raise RequestError("image of 0 bytes; send the contents of a JPEG, PNG or WebP file")
    try:
        with warnings.catch_warnings():
            # Pillow warns of a possible bomb; the limits below refuse it before anything is decoded.
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            _check_header(image.size, limits)
            # libjpeg decodes a large photo at 1/2, 1/4 or 1/8 of its size: no need to unpack what is dropped.
            image.draft(None, (2 * preprocessing.width, 2 * preprocessing.height))
            image.load()
            return _fit(image, preprocessing)
    except UnidentifiedImageError as error:
        raise UnsupportedMediaError(
            f"{len(data)} bytes that begin with {data[:8].hex(' ')} are not an image this node reads; "
            "send a JPEG, PNG or WebP"
        ) from error
    except Image.DecompressionBombError as error:
        raise TooLargeError(f"image refused: {error}; send a smaller one") from error
    except OfframpError:
        raise
    except Exception as error:
        raise RequestError(
            f"image of {len(data)} bytes cannot be decoded: {error}; send it again, whole"
        ) from error


def resize_pixels(pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Bring uint8 pixels (H, W) or (H, W, 3) to the bundle's size and mode, as `decode_image` does."""
    return _fit(Image.fromarray(pixels), preprocessing)


def _check_header(size: tuple[int, int], limits: ImageLimits) -> None:
    width, height = size
    if width * height > limits.max_pixels:
        raise TooLargeError(
            f"image of {width} x {height} pixels is more than {limits.max_pixels} pixels; send a smaller one"
        )
    if max(width, height) > limits.max_aspect_ratio * min(width, height):
        raise RequestError(
            f"image of {width} x {height} pixels is longer than {limits.max_aspect_ratio:g} times its other "
            "side, so nothing would be left of it at the network's size; crop it first"
        )


def _fit(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    converted = _to_mode(_upright(image), preprocessing.mode)
    size = (preprocessing.width, preprocessing.height)
    if converted.size != size:
        converted = converted.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(converted, dtype=np.uint8).reshape(preprocessing.pixel_shape)


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # noqa: BLE001 - a photo whose notes are damaged is still a photo
        return image
    return image if turn is None else image.transpose(turn)


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == mode:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_8_bits(image)
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(opaque, image.convert("RGBA"))
    return image.convert(mode)


def _to_8_bits(image: Image.Image) -> Image.Image:
    # Pillow's own conversion clips at 255, which turns a 16-bit photo white.
    values: NDArray[Any] = np.asarray(image, dtype=np.float64)
    return Image.fromarray((values / 65535 * 255).clip(0, 255).round().astype(np.uint8))
