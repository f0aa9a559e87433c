"""What of a HEIC can be told without opening it, which is as much work as decoding other formats."""

from __future__ import annotations

import re
from importlib.util import find_spec

from offramp.engine.images.header import DamageError, Header
from offramp.errors import UnsupportedMediaError
from offramp.install import how_to_install

# The brands of ISO 23008-12 (HEIF) for pictures that HEVC encodes.
_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
# ImageSpatialExtentsProperty: length, kind, version and flags; then width and height.
_SIZE = re.compile(rb"\0\0\0\x14ispe\0\0\0\0(.{8})", re.DOTALL)
_LOOKED_AT = 1 << 20  # sizes come before the pixels, in a box of some kilobytes
_MOST_SIZES = 1000


def is_heic(data: bytes) -> bool:
    """Whether these bytes begin as a HEIC does."""
    return data[4:8] == b"ftyp" and data[8:12] in _BRANDS


def read_header(data: bytes) -> Header:
    """Find the size of a HEIC: the largest of those of its pictures, such as tiles, thumbnails, and the whole one.

    Raises:
        UnsupportedMediaError: the extra heif, which reads it, is not installed.
        DamageError: no size is told.
    """
    if find_spec("pillow_heif") is None:
        raise UnsupportedMediaError(
            f"a HEIC photo, which this node does not read; send a JPEG, PNG or WebP, or install the extra heif where "
            f"the node runs: {how_to_install('heif')}"
        )
    sizes = []
    for found, _ in zip(_SIZE.finditer(data, 0, _LOOKED_AT), range(_MOST_SIZES), strict=False):
        sizes.append((int.from_bytes(found[1][:4], "big"), int.from_bytes(found[1][4:], "big")))
    width, height = max(sizes, key=lambda size: size[0] * size[1], default=(0, 0))
    if not width or not height:
        raise DamageError("its size is not told before its pixels")
    return Header("HEIF", width, height, is_simple=False)
