"""Decodes image files to the uint8 pixels that block 1 takes; safe for untrusted bytes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from offramp.bundle.preprocessing import Preprocessing
from offramp.engine.images.files import Picture, damage_told, read_header
from offramp.engine.images.fit import cut_out, fitted, fitted_pixels, seen_size, turned
from offramp.engine.images.header import LIGHT_BYTES, Header
from offramp.engine.images.limits import DEFAULT_LIMITS, ImageLimits
from offramp.engine.images.orientation import UPRIGHT
from offramp.engine.images.resizing import Box
from offramp.errors import ConfigError, RequestError

_LIGHT_PIXELS = 512 * 512
_LIGHT_SCANS = 12  # of as many pixels; a progressive photo has ten or so


def decode_image(
    data: bytes, preprocessing: Preprocessing, *, limits: ImageLimits = DEFAULT_LIMITS
) -> NDArray[np.uint8]:
    """Decode one image: uint8 pixels (H, W, C). See `decode_images`."""
    pixels: NDArray[np.uint8] = decode_images([data], preprocessing, limits=limits)[0]
    return pixels


def decode_images(
    images: Sequence[bytes], preprocessing: Preprocessing, *, limits: ImageLimits = DEFAULT_LIMITS
) -> NDArray[np.uint8]:
    """Decode JPEG, PNG, WebP or, with the extra heif, HEIC images as the bundle's preprocessing says.

    EXIF orientation is applied. An image that already has the size it is to be resized to is not resampled.

    Returns:
        uint8 pixels (B, H, W, C).

    Raises:
        UnsupportedMediaError: one of them has another format.
        TooLargeError: by their headers, the images have more pixels in total than `limits` allow.
        RequestError: empty, truncated or damaged data, or an aspect ratio beyond `limits`.
    """
    return open_images(images, limits=limits).decode(preprocessing)


def decode_crop(
    data: bytes, preprocessing: Preprocessing, box: Box, *, limits: ImageLimits = DEFAULT_LIMITS
) -> NDArray[np.uint8]:
    """Decode a part of one image, resized to the bundle's size whatever its shape: uint8 pixels (H, W, C).

    All else is as in `decode_image`: orientation, interpolation, background, mode, and the scale at which a JPEG is
    decoded. It is for augmentation, such as randomly resized crops.

    Args:
        box: left, upper, right and lower border of the part, as fractions of the upright picture.

    Raises:
        ConfigError: the box is empty or reaches beyond the picture.
        UnsupportedMediaError, TooLargeError, RequestError: as in `decode_images`.
    """
    left, upper, right, lower = box
    if not (0 <= left < right <= 1 and 0 <= upper < lower <= 1):
        raise ConfigError(
            f"box {box} is not a part of the picture; give 0 <= left < right <= 1, upper and lower alike"
        )
    header = _checked_header(data, limits)
    whole = math.ceil(preprocessing.width / (right - left)), math.ceil(preprocessing.height / (lower - upper))
    with damage_told(data):
        picture = Picture(data, header)
        image = _as_image(picture.pixels(_at_least(whole, picture.turn, preprocessing.jpeg_margin)))
    return cut_out(turned(image, picture.turn), preprocessing, box)


def photo_size(data: bytes) -> tuple[int, int]:
    """Size (width, height) of an image that is turned upright, in pixels.

    Raises:
        UnsupportedMediaError, TooLargeError, RequestError: as in `decode_images`.
    """
    header = _checked_header(data, DEFAULT_LIMITS)
    with damage_told(data):
        picture = Picture(data, header)
    return seen_size(picture.size, picture.turn)


class OpenedImages:
    """Images whose headers are within the limits; nothing of them is decoded yet.

    num_pixels: of each image. files: the file of each for another tier that may decode it; None for HEIC, which not
    every node reads. is_light: whether decoding them is known to take few milliseconds and little memory.
    """

    def __init__(self, headers: Sequence[Header], files: Sequence[bytes], limits: ImageLimits) -> None:
        self._headers = list(headers)
        self._files = list(files)
        self._limits = limits
        self.num_pixels = [header.num_pixels for header in headers]
        self.files = [
            None if header.kind == "HEIF" else file for header, file in zip(headers, files, strict=True)
        ]
        self.is_light = (
            sum(self.num_pixels) <= _LIGHT_PIXELS
            and sum(header.num_pixels * header.num_scans for header in headers)
            <= _LIGHT_SCANS * _LIGHT_PIXELS
            and all(header.is_simple for header in headers)
            and sum(map(len, files)) <= LIGHT_BYTES
        )

    def decode(self, preprocessing: Preprocessing) -> NDArray[np.uint8]:
        """Decode them: uint8 pixels (B, H, W, C); see `decode_images`.

        Raises:
            RequestError: truncated or damaged data.
            TooLargeError: a HEIC has more pixels than its header says, and than the limits allow.
        """
        return self._each(partial(_decoded, preprocessing=preprocessing))

    def pixels(self, preprocessing: Preprocessing) -> NDArray[np.uint8]:
        """Decode pictures that are what block 1 takes already: uint8 pixels (B, H, W, C), neither resized nor turned.

        Raises:
            RequestError: one of them has another size, or its data is truncated or damaged.
        """
        return self._each(partial(_unfitted, preprocessing=preprocessing))

    def _each(self, decode: Callable[[Picture, bytes], NDArray[np.uint8]]) -> NDArray[np.uint8]:
        decoded = []
        for number, (header, file) in enumerate(zip(self._headers, self._files, strict=True), start=1):
            try:
                with damage_told(file):
                    picture = Picture(file, header)
                if picture.size != header.size:
                    self._limits.check(picture.size, self._limits.max_pixels - math.prod(picture.size))
                decoded.append(decode(picture, file))
                picture.close()
            except RequestError as error:
                raise _numbered(error, number, len(self._files)) from error.__cause__
        return decoded[0][None] if len(decoded) == 1 else np.stack(decoded)


def open_images(images: Sequence[bytes], *, limits: ImageLimits = DEFAULT_LIMITS) -> OpenedImages:
    """Read the headers of images and check them against the limits; nothing is decoded, and no memory taken for it.

    Raises:
        UnsupportedMediaError: one of them has a format that is not read here.
        TooLargeError: by their headers, the images have more pixels in total than `limits` allow.
        RequestError: empty or damaged data, or an aspect ratio beyond `limits`.
    """
    headers, pixels_left = [], limits.max_pixels
    for number, data in enumerate(images, start=1):
        try:
            header = read_header(data)
            pixels_left -= header.num_pixels
            limits.check(header.size, pixels_left)
        except RequestError as error:
            raise _numbered(error, number, len(images)) from error.__cause__
        headers.append(header)
    return OpenedImages(headers, images, limits)


def _checked_header(data: bytes, limits: ImageLimits) -> Header:
    header = read_header(data)
    limits.check(header.size, limits.max_pixels - header.num_pixels)
    return header


def _numbered(error: RequestError, number: int, count: int) -> RequestError:
    """The error, saying which of several images it is about."""
    return error if count == 1 else type(error)(f"image {number} of {count}: {error}")


def resize_pixels(pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Convert uint8 pixels (H, W) or (H, W, 3) to the bundle's size and mode, as `decode_image` does."""
    image = Image.fromarray(pixels)
    return fitted(image, preprocessing, preprocessing.resized(*image.size))


def _unfitted(picture: Picture, file: bytes, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    expected = (preprocessing.width, preprocessing.height)
    if picture.size != expected:
        raise RequestError(
            f"pixels of {picture.size[0]} x {picture.size[1]}, but block 1 takes {expected[0]} x {expected[1]}; "
            "send a photo of another size as an image"
        )
    with damage_told(file):
        image = _as_image(picture.pixels())
    plain = image if image.mode == preprocessing.mode else image.convert(preprocessing.mode)
    return np.frombuffer(plain.tobytes(), dtype=np.uint8).reshape(preprocessing.pixel_shape)


def _decoded(picture: Picture, file: bytes, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    # By the size in the header: a JPEG that is decoded at a smaller scale has its sides rounded up.
    whole = preprocessing.resized(*seen_size(picture.size, picture.turn))
    with damage_told(file):
        pixels = picture.pixels(_at_least(whole, picture.turn, preprocessing.jpeg_margin))
    if isinstance(pixels, np.ndarray) and picture.turn == UPRIGHT:
        found = fitted_pixels(pixels, preprocessing, whole)
        if found is not None:
            return found
    return fitted(turned(_as_image(pixels), picture.turn), preprocessing, whole)


def _at_least(whole: tuple[int, int], turn: int, margin: int) -> tuple[int, int] | None:
    """How large a JPEG has to be decoded, as it lies in the file, to be resized to `whole`; None: in full."""
    width, height = seen_size(whole, turn)
    return (margin * width, margin * height) if margin else None


def _as_image(pixels: Image.Image | NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
