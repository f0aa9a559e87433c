"""IDX files, the format of MNIST and Fashion-MNIST.

Layout: two zero bytes, a dtype code (8 is uint8), the number of dimensions, each dimension as a big-endian
32-bit number, then the values.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from offramp.authoring.data.labelled import LabelledImages, Part
from offramp.authoring.data.photos import Pixels
from offramp.authoring.data.reading import CACHE_MB, read_pixels
from offramp.bundle.manifest import Preprocessing
from offramp.engine.images import resize_pixels
from offramp.errors import DataError

IDX_PARTS: Mapping[Part, str] = {"train": "train", "test": "t10k"}


def holds_idx(path: Path) -> bool:
    """Whether a directory holds IDX files under MNIST's names."""
    return path.is_dir() and any(path.glob("*-images*idx3-ubyte*"))


def load_idx(
    path: Path, part: Part, preprocessing: Preprocessing, *, cache_mb: int = CACHE_MB
) -> LabelledImages:
    """Read one part of an MNIST-like directory, gzipped or not; `cache_mb` is the most to keep if they are resized.

    Raises:
        DataError: there is no such part, a file is missing, empty or damaged, or there are not as many labels as
            images.
    """
    if part not in IDX_PARTS:
        raise DataError(f"{path} has IDX files, which have no {part} part; expected {' or '.join(IDX_PARTS)}")
    pixels = read_idx(_find(path, f"{IDX_PARTS[part]}-images*idx3-ubyte*"), dimensions=3)
    classes = read_idx(_find(path, f"{IDX_PARTS[part]}-labels*idx1-ubyte*"), dimensions=1)
    if len(pixels) != len(classes):
        raise DataError(f"{path} has {len(pixels)} {part} images, but {len(classes)} labels")
    if not pixels.size:
        raise DataError(f"{path} has {part} images of shape {pixels.shape}, without pixels; fetch it again")
    if pixels.shape[1:] == (preprocessing.height, preprocessing.width) and preprocessing.mode == "L":
        fitted: Pixels = pixels[..., np.newaxis]
    else:
        fitted, _ = read_pixels(
            lambda number: resize_pixels(pixels[number], preprocessing),
            len(pixels),
            preprocessing.pixel_shape,
            cache_mb=cache_mb,
        )
    sources = tuple(f"{part}/{number:05d}" for number in range(len(classes)))
    return LabelledImages(fitted, classes.astype(np.int64), None, sources)


def read_idx(path: Path, *, dimensions: int) -> NDArray[np.uint8]:
    """Read one IDX file of uint8 values, gzipped or not.

    Raises:
        DataError: the file is not IDX or not uint8, has another number of dimensions, or is too short or too long.
    """
    try:
        raw = path.read_bytes()
        data = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}; fetch it again") from error
    if data[:3] != b"\x00\x00\x08" or len(data) < 4:
        raise DataError(
            f"{path} begins with {data[:4].hex(' ')}, but an IDX file of bytes begins with 00 00 08"
        )
    if data[3] != dimensions:
        raise DataError(f"{path} has {data[3]} dimensions, expected {dimensions}")
    header = data[4 : 4 + 4 * dimensions].ljust(4 * dimensions, b"\0")
    shape = struct.unpack(f">{dimensions}I", header)
    expected = 4 + 4 * dimensions + math.prod(shape)
    if len(data) != expected:
        raise DataError(
            f"{path} says its shape is {shape}, which takes {expected} bytes, but has {len(data)}; fetch it again"
        )
    return np.frombuffer(data, dtype=np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def _find(path: Path, pattern: str) -> Path:
    found = sorted(path.glob(pattern))
    if not found:
        raise DataError(
            f"{path} has no file {pattern}; expected the four files of MNIST under their usual names"
        )
    return found[0]
