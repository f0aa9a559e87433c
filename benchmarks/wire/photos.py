"""The rival: the photo itself, under the codecs a gateway would use."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from offramp.authoring.data import LabelledImages, Pixels
from offramp.bundle import Bundle
from offramp.engine.runtime import load_blocks
from offramp.engine.tier import Answer, Tier

_QUALITIES = (1, 5, 10, 20, 30, 50, 75, 90)
_FINE = 75  # AVIF and JPEG XL encode slowly; what bytes are saved for lies below
# JPEG XL needs the package pillow-jxl-plugin.
_HAS_JXL = find_spec("pillow_jxl") is not None
if _HAS_JXL:
    import_module("pillow_jxl")


@dataclass(frozen=True)
class PhotoPoint:
    """A codec at one quality: mean bytes of a photo, and the accuracy of the full network on the decoded photos."""

    codec: str
    bytes_mean: float
    accuracy: float


def photo_points(
    bundle: Bundle, images: LabelledImages, classes_N: NDArray[np.int64], advance: Callable[[int], None]
) -> list[PhotoPoint]:
    """Send every photo through every codec, then through the full network without early exits."""
    points = []
    for name, options in CODECS.items():
        sizes, pixels = [], np.empty(images.pixels.shape, dtype=np.uint8)
        for number, image in enumerate(images.pixels):
            data = encoded(image, options)
            sizes.append(len(data))
            pixels[number] = decoded(data, image.shape)
        points.append(PhotoPoint(name, float(np.mean(sizes)), _accuracy(bundle, pixels, classes_N)))
        advance(1)
    raw = float(np.prod(images.pixels.shape[1:]))
    return [PhotoPoint("raw", raw, _accuracy(bundle, images.pixels, classes_N)), *points]


def num_codecs() -> int:
    """How often `photo_points` advances."""
    return len(CODECS)


def _accuracy(bundle: Bundle, pixels: Pixels, classes_N: NDArray[np.int64]) -> float:
    manifest = bundle.manifest
    tier = Tier(manifest, load_blocks(bundle, 1, len(manifest.blocks)), start=1)
    never = (1.0,) * (manifest.num_exits - 1)
    right = 0
    for start in range(0, len(pixels), 100):
        for number, outcome in enumerate(tier.run(pixels[start : start + 100], never), start=start):
            assert isinstance(outcome, Answer)
            right += outcome.class_index == classes_N[number]
    return right / len(pixels)


def encoded(pixels_HWC: NDArray[np.uint8], options: Mapping[str, Any]) -> bytes:
    """A picture in one of `CODECS`."""
    file = io.BytesIO()
    image = Image.fromarray(pixels_HWC.squeeze(2) if pixels_HWC.shape[2] == 1 else pixels_HWC)
    image.save(file, **options)
    return file.getvalue()


def decoded(data: bytes, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """What arrives: uint8 pixels of this shape (H, W, C)."""
    image = Image.open(io.BytesIO(data)).convert("L" if shape[2] == 1 else "RGB")
    return np.asarray(image).reshape(shape)


CODECS: Mapping[str, Mapping[str, Any]] = {
    "PNG": {"format": "PNG", "optimize": True},
    "WebP lossless": {"format": "WEBP", "lossless": True, "quality": 100, "method": 6},
    **{f"JPEG q{q}": {"format": "JPEG", "quality": q, "optimize": True} for q in _QUALITIES},
    **{f"WebP q{q}": {"format": "WEBP", "quality": q, "method": 6} for q in _QUALITIES},
    **{f"AVIF q{q}": {"format": "AVIF", "quality": q, "speed": 6} for q in _QUALITIES if q < _FINE},
    **(
        {f"JPEG XL q{q}": {"format": "JXL", "quality": q} for q in _QUALITIES if q < _FINE}
        if _HAS_JXL
        else {}
    ),
}
