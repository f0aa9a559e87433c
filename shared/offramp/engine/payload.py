"""What a sample travels to the next tier as: its feature, the photo as it came, or what block 1 took of it.

Nodes and the evaluation follow the same rule, so the bytes that are reported are those that are sent. Shapes: H x W
pixels, C channels.
"""

from __future__ import annotations

import io
from collections.abc import Collection
from dataclasses import dataclass
from math import prod
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from offramp.bundle.manifest import Manifest, Payload
from offramp.bundle.preprocessing import Preprocessing
from offramp.engine.images import open_images
from offramp.wire.codec import expected_bytes

# feature: what the last block here computed. image: the file as it was received. pixels: the picture that block 1 took.
Sent = Literal["feature", "image", "pixels"]
ANY_SENT: frozenset[Sent] = frozenset(get_args(Sent))

# Lossless WebP takes about this share of a photo's raw bytes, or more; `python -m benchmarks.rates` measures it.
_LOSSLESS = 0.4


def is_lossy(payload: Payload) -> bool:
    """Whether the next tier answers from a picture that is not exactly what block 1 took here."""
    return payload not in ("exact", "feature")


@dataclass(frozen=True)
class PayloadRule:
    """Decides what is sent for each sample that is handed over at a split point.

    payload: see `Payload`. feature_bytes: expected size of one encoded feature. raw_bytes: of the pixels block 1 takes.
    """

    payload: Payload
    feature_bytes: float
    raw_bytes: int

    @classmethod
    def at(cls, manifest: Manifest, split_point: int, payload: Payload | None = None) -> PayloadRule:
        """The rule of a bundle at a split point; `payload` by default as at its default operating point."""
        return cls(
            manifest.operating_point.payload if payload is None else payload,
            expected_bytes(manifest.blocks[split_point - 2], manifest.codec_at(split_point)),
            prod(manifest.preprocessing.pixel_shape),
        )

    @property
    def lossless_bytes(self) -> float:
        """About as many as the pixels take at least, without loss, if they are a photo's."""
        return _LOSSLESS * self.raw_bytes

    def choose(
        self, image_bytes: int, pixels: NDArray[np.uint8] | None, accepts: Collection[Sent] = ANY_SENT
    ) -> tuple[Sent, bytes]:
        """What to send for one sample, and the encoded pixels if it is these.

        Args:
            image_bytes: size of the file it came as; 0 if there is none that could be sent.
            pixels: (H, W, C), what block 1 took; None if another tier ran block 1.
            accepts: what the next tier can answer from, besides features.
        """
        if self.payload == "feature":
            return "feature", b""
        takes_pixels = pixels is not None and "pixels" in accepts
        if is_lossy(self.payload) and takes_pixels:
            return "pixels", encode_pixels(pixels, self.payload)
        sent: Sent = "feature"
        least = self.feature_bytes
        if "image" in accepts and 0 < image_bytes < least:
            sent, least = "image", image_bytes
        if takes_pixels and least > self.lossless_bytes:  # otherwise it is not even tried
            encoded = encode_pixels(pixels, "exact")
            if len(encoded) < least:
                return "pixels", encoded
        return sent, b""


def encode_pixels(pixels_HWC: NDArray[np.uint8] | None, payload: Payload) -> bytes:
    """Encode what block 1 takes as a JPEG or WebP; `exact` as lossless WebP."""
    assert pixels_HWC is not None
    image = Image.fromarray(pixels_HWC.squeeze(2) if pixels_HWC.shape[2] == 1 else pixels_HWC)
    file = io.BytesIO()
    if payload == "exact":
        # More effort saves few bytes and takes far longer.
        image.save(file, "WEBP", lossless=True, quality=0, method=1)
    else:
        name, _, quality = payload.partition("-")
        image.save(file, name, quality=int(quality), **_EFFORT[name])
    return file.getvalue()


def decode_pixels(data: bytes, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Decode what `encode_pixels` wrote: uint8 (H, W, C).

    Raises:
        RequestError: the data is damaged, or of another size.
    """
    pixels: NDArray[np.uint8] = open_images([data]).pixels(preprocessing)[0]
    return pixels


_EFFORT: dict[str, dict[str, int]] = {"jpeg": {"optimize": 1}, "webp": {"method": 4}}
