"""Untrusted bytes → the uint8 pixels that block 1 takes, as the bundle's preprocessing says."""

from offramp.engine.images.decode import (
    OpenedImages,
    decode_crop,
    decode_image,
    decode_images,
    open_images,
    photo_size,
    resize_pixels,
)
from offramp.engine.images.files import PHOTO_SUFFIXES
from offramp.engine.images.limits import DEFAULT_LIMITS, ImageLimits

__all__ = [
    "DEFAULT_LIMITS",
    "PHOTO_SUFFIXES",
    "ImageLimits",
    "OpenedImages",
    "decode_crop",
    "decode_image",
    "decode_images",
    "open_images",
    "photo_size",
    "resize_pixels",
]
