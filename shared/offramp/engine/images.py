"""Decodes image files to the uint8 pixels that block 1 takes; safe for untrusted bytes."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from offramp.bundle.manifest import Preprocessing
from offramp.errors import RequestError, TooLargeError, UnsupportedMediaError

FORMATS = ("JPEG", "PNG", "WEBP")

# Pillow only warns about a possible decompression bomb; `ImageLimits` is stricter and refuses it.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)
# It also warns about damaged EXIF data, which `_turn_upright` tolerates.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

_LIGHT_PIXELS = 512 * 512
# Where Pillow looks for an orientation. Most small photos have none of these, and looking takes microseconds.
_TELL_ORIENTATION = {"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"}


@dataclass(frozen=True, kw_only=True)
class ImageLimits:
    """Limits on the images of one request, checked by their headers before any of them is decoded.

    max_pixels: of all images together. max_aspect_ratio: longer side of an image to its shorter one.
    """

    max_pixels: int = 25_000_000
    max_aspect_ratio: float = 20.0


DEFAULT_LIMITS = ImageLimits()


def decode_image(
    data: bytes, preprocessing: Preprocessing, *, limits: ImageLimits = DEFAULT_LIMITS
) -> NDArray[np.uint8]:
    """Decode one image: uint8 pixels (H, W, C). See `decode_images`."""
    pixels: NDArray[np.uint8] = decode_images([data], preprocessing, limits=limits)[0]
    return pixels


def decode_images(
    images: Sequence[bytes], preprocessing: Preprocessing, *, limits: ImageLimits = DEFAULT_LIMITS
) -> NDArray[np.uint8]:
    """Decode JPEG, PNG or WebP images and convert them to the bundle's size and mode.

    EXIF orientation is applied, transparent images are composited over black, and the image is stretched (not cropped)
    to (H, W) with an antialiased bilinear filter. An image that already has this size is not resampled.

    Returns:
        uint8 pixels (B, H, W, C).

    Raises:
        UnsupportedMediaError: one of them is not a JPEG, PNG or WebP.
        TooLargeError: by their headers, the images have more pixels in total than `limits` allow.
        RequestError: empty, truncated or damaged data, or an aspect ratio beyond `limits`.
    """
    return open_images(images, limits=limits).decode(preprocessing)


class OpenedImages:
    """Images whose headers are within the limits; their pixels can be decoded once."""

    def __init__(self, images: Sequence[Image.Image], sizes: Sequence[int]) -> None:
        self._images = images
        self._sizes = sizes
        self.num_pixels = [image.width * image.height for image in images]
        # Decoding more than this takes milliseconds.
        self.is_light = sum(self.num_pixels) <= _LIGHT_PIXELS

    def decode(self, preprocessing: Preprocessing) -> NDArray[np.uint8]:
        """Decode them: uint8 pixels (B, H, W, C); see `decode_images`.

        Raises:
            RequestError: truncated or damaged data.
        """
        decoded = []
        for number, (image, size) in enumerate(zip(self._images, self._sizes, strict=True), start=1):
            with _numbered(number, len(self._images)):
                _load(image, size, preprocessing)
            decoded.append(_fit(image, preprocessing))
            image.close()
        return decoded[0][None] if len(decoded) == 1 else np.stack(decoded)


def open_images(images: Sequence[bytes], *, limits: ImageLimits = DEFAULT_LIMITS) -> OpenedImages:
    """Read the headers of images and check them against the limits; no pixel is decoded.

    Raises:
        UnsupportedMediaError: one of them is not a JPEG, PNG or WebP.
        TooLargeError: by their headers, the images have more pixels in total than `limits` allow.
        RequestError: empty or damaged data, or an aspect ratio beyond `limits`.
    """
    opened, pixels_left = [], limits.max_pixels
    for number, data in enumerate(images, start=1):
        with _numbered(number, len(images)):
            image = _open(data)
            pixels_left -= image.width * image.height
            _check_header(image.size, pixels_left, limits)
        opened.append(image)
    return OpenedImages(opened, [len(data) for data in images])


@contextmanager
def _numbered(number: int, count: int) -> Iterator[None]:
    """Say which of several images an error is about."""
    try:
        yield
    except RequestError as error:
        if count == 1:
            raise
        raise type(error)(f"image {number} of {count}: {error}") from error


def resize_pixels(pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Convert uint8 pixels (H, W) or (H, W, 3) to the bundle's size and mode, as `decode_image` does."""
    return _fit(Image.fromarray(pixels), preprocessing)


def _open(data: bytes) -> Image.Image:
    if not data:
        raise RequestError("image of 0 bytes; send the contents of a JPEG, PNG or WebP file")
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise UnsupportedMediaError(
            f"{len(data)} bytes that begin with {data[:8].hex(' ')} are not an image this node reads; "
            "send a JPEG, PNG or WebP"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLargeError(f"image refused: {error}; send a smaller one") from error
    except Exception as error:
        raise _damaged(len(data), error) from error


def _check_header(size: tuple[int, int], pixels_left: int, limits: ImageLimits) -> None:
    width, height = size
    if pixels_left < 0:
        raise TooLargeError(
            f"image of {width} x {height} pixels takes the request over its limit of {limits.max_pixels} pixels; "
            "send smaller images, or fewer"
        )
    if max(width, height) > limits.max_aspect_ratio * min(width, height):
        raise RequestError(
            f"image of {width} x {height} pixels has one side more than {limits.max_aspect_ratio:g} times as long as "
            "the other, too much to shrink to the network's size; crop it first"
        )


def _load(image: Image.Image, size: int, preprocessing: Preprocessing) -> None:
    try:
        # libjpeg can decode a large photo at 1/2, 1/4 or 1/8 of its size, which skips most of the work.
        image.draft(None, (2 * preprocessing.width, 2 * preprocessing.height))
        image.load()
    except MemoryError:
        raise
    except Exception as error:
        raise _damaged(size, error) from error


def _damaged(size: int, error: Exception) -> RequestError:
    # Pillow's decoders raise all kinds of exceptions on damaged data.
    return RequestError(f"image of {size} bytes cannot be decoded: {error}; send the whole file again")


def _fit(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    _turn_upright(image)
    plain = _plain(image)
    size = (preprocessing.width, preprocessing.height)
    if plain.size != size:
        # Shrink first, so that the conversions below do not copy a large image.
        plain = plain.resize(size, Image.Resampling.BILINEAR)
    if plain.mode == "RGBA":
        plain = Image.alpha_composite(Image.new("RGBA", size, (0, 0, 0, 255)), plain)
    fitting = plain if plain.mode == preprocessing.mode else plain.convert(preprocessing.mode)
    return np.frombuffer(fitting.tobytes(), dtype=np.uint8).reshape(preprocessing.pixel_shape)


def _turn_upright(image: Image.Image) -> None:
    if _TELL_ORIENTATION.isdisjoint(image.info):
        return
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - a photo with damaged EXIF data is still a photo
        pass


def _plain(image: Image.Image) -> Image.Image:
    """The image in one of the modes that can be resized: L, RGB, RGBA."""
    if image.mode.startswith("I"):
        # Pillow's own conversion clips at 255, which turns a 16-bit photo white.
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        return image if image.mode == "RGBA" else image.convert("RGBA")
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")
