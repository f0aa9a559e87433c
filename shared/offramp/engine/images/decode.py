"""Decodes image files to the uint8 pixels that block 1 takes; safe for untrusted bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from offramp.bundle.preprocessing import Preprocessing
from offramp.engine.images.files import HEIF, load_image, open_image
from offramp.engine.images.fit import Box, cut_out, fitted, orientation, seen_size, turned
from offramp.engine.images.limits import DEFAULT_LIMITS, ImageLimits
from offramp.errors import ConfigError, RequestError

_LIGHT_PIXELS = 512 * 512


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
    image = open_image(data, limits)
    limits.check(image.size, limits.max_pixels - image.width * image.height)
    whole = math.ceil(preprocessing.width / (right - left)), math.ceil(preprocessing.height / (lower - upper))
    if preprocessing.jpeg_margin and isinstance(image, JpegImageFile):
        _draft(image, whole, preprocessing.jpeg_margin)
    load_image(image, len(data))
    return cut_out(turned(image, orientation(image)), preprocessing, box)


def photo_size(data: bytes) -> tuple[int, int]:
    """Size (width, height) of an image that is turned upright, in pixels; of a PNG, by what comes before its pixels.

    Raises:
        UnsupportedMediaError, TooLargeError, RequestError: as in `decode_images`.
    """
    image = open_image(data, DEFAULT_LIMITS)
    return seen_size(image.size, orientation(image))


class OpenedImages:
    """Images whose headers are within the limits; their pixels can be decoded once."""

    def __init__(self, images: Sequence[Image.Image], files: Sequence[bytes]) -> None:
        self._images = images
        self._sizes = [len(file) for file in files]
        self.num_pixels = [image.width * image.height for image in images]
        # The file of each image for another tier that may decode it; None for HEIC, which not every node reads.
        self.files = [
            None if image.format == HEIF else file for image, file in zip(images, files, strict=True)
        ]
        # Decoding anything else takes milliseconds.
        self.is_light = sum(self.num_pixels) <= _LIGHT_PIXELS and None not in self.files

    def decode(self, preprocessing: Preprocessing) -> NDArray[np.uint8]:
        """Decode them: uint8 pixels (B, H, W, C); see `decode_images`.

        Raises:
            RequestError: truncated or damaged data.
        """
        decoded = []
        for number, (image, size) in enumerate(zip(self._images, self._sizes, strict=True), start=1):
            try:
                decoded.append(_decoded(image, size, preprocessing))
            except RequestError as error:
                raise _numbered(error, number, len(self._images)) from error.__cause__
            image.close()
        return decoded[0][None] if len(decoded) == 1 else np.stack(decoded)

    def pixels(self, preprocessing: Preprocessing) -> NDArray[np.uint8]:
        """Decode pictures that are what block 1 takes already: uint8 pixels (B, H, W, C), neither resized nor turned.

        Raises:
            RequestError: one of them has another size, or its data is truncated or damaged.
        """
        decoded = []
        for number, (image, size) in enumerate(zip(self._images, self._sizes, strict=True), start=1):
            try:
                decoded.append(_unfitted(image, size, preprocessing))
            except RequestError as error:
                raise _numbered(error, number, len(self._images)) from error.__cause__
            image.close()
        return np.stack(decoded)


def open_images(images: Sequence[bytes], *, limits: ImageLimits = DEFAULT_LIMITS) -> OpenedImages:
    """Read the headers of images and check them against the limits; no pixel is decoded.

    Raises:
        UnsupportedMediaError: one of them has a format that is not read here.
        TooLargeError: by their headers, the images have more pixels in total than `limits` allow.
        RequestError: empty or damaged data, or an aspect ratio beyond `limits`.
    """
    opened, pixels_left = [], limits.max_pixels
    for number, data in enumerate(images, start=1):
        try:
            image = open_image(data, limits)
            pixels_left -= image.width * image.height
            limits.check(image.size, pixels_left)
        except RequestError as error:
            raise _numbered(error, number, len(images)) from error.__cause__
        opened.append(image)
    return OpenedImages(opened, images)


def _numbered(error: RequestError, number: int, count: int) -> RequestError:
    """The error, saying which of several images it is about."""
    return error if count == 1 else type(error)(f"image {number} of {count}: {error}")


def resize_pixels(pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Convert uint8 pixels (H, W) or (H, W, 3) to the bundle's size and mode, as `decode_image` does."""
    image = Image.fromarray(pixels)
    return fitted(image, preprocessing, preprocessing.resized(*image.size))


def _unfitted(image: Image.Image, num_bytes: int, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    expected = (preprocessing.width, preprocessing.height)
    if image.size != expected:
        raise RequestError(
            f"pixels of {image.width} x {image.height}, but block 1 takes {expected[0]} x {expected[1]}; "
            "send a photo of another size as an image"
        )
    load_image(image, num_bytes)
    plain = image if image.mode == preprocessing.mode else image.convert(preprocessing.mode)
    return np.frombuffer(plain.tobytes(), dtype=np.uint8).reshape(preprocessing.pixel_shape)


def _decoded(image: Image.Image, num_bytes: int, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    if isinstance(image, JpegImageFile):
        # The size in the header: a JPEG that is decoded at a smaller scale has its sides rounded up.
        size, turn = image.size, orientation(image)
        if preprocessing.jpeg_margin:
            _draft(image, preprocessing.resized(*seen_size(size, turn)), preprocessing.jpeg_margin)
        load_image(image, num_bytes)
    else:
        load_image(image, num_bytes)
        size, turn = image.size, orientation(image)  # which a PNG may tell behind its pixels
    return fitted(turned(image, turn), preprocessing, preprocessing.resized(*seen_size(size, turn)))


def _draft(image: JpegImageFile, whole: tuple[int, int], margin: int) -> None:
    """Have a JPEG decoded at 1/2, 1/4 or 1/8 of its size where that is enough, which skips most of the work.

    whole: size (width, height) that the upright picture is going to be resized to.
    """
    width, height = seen_size(whole, orientation(image))
    image.draft(None, (margin * width, margin * height))
