"""PNG files that Pillow does not write, put together from their chunks."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray


def png_of(levels: NDArray[np.int64], depth: int, *, colour: int, clear: bytes = b"") -> bytes:
    """A PNG of levels (H, W) or (H, W, C) of so many bits; `clear`: its transparent colour."""
    height, width = levels.shape[:2]
    bits = ((levels.reshape(height, -1)[..., None] >> np.arange(depth)[::-1]) & 1).astype(np.uint8)
    rows = np.packbits(bits.reshape(height, -1), axis=1)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
        + (chunk(b"tRNS", clear) if clear else b"")
        + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)))
        + chunk(b"IEND", b"")
    )


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG that claims a size without having its pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 99))
        + chunk(b"IEND", b"")
    )


def chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk, with its checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
