"""The header of a WebP; the decoder takes memory for the whole canvas before it has looked at a pixel."""

from __future__ import annotations

from collections.abc import Iterator

from offramp.engine.images.header import LIGHT_BYTES, DamageError, Header
from offramp.engine.images.orientation import UPRIGHT, of_exif, of_xmp

_MAX_CHUNKS = 1000  # among which the notes are looked for


def is_webp(data: bytes) -> bool:
    """Whether these bytes begin as a WebP does."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def read_header(data: bytes) -> Header:
    """Read the header of a WebP, by its first chunk: RFC 9649, sections 2.5 to 2.7.

    Raises:
        DamageError: it has none.
    """
    kind, start = data[12:16], data[20:30]
    if kind == b"VP8 " and start[3:6] == b"\x9d\x01\x2a" and len(start) == 10:
        width, height = (int.from_bytes(start[at : at + 2], "little") & 0x3FFF for at in (6, 8))
    elif kind == b"VP8L" and start[:1] == b"\x2f" and len(start) >= 5:
        sides = int.from_bytes(start[1:5], "little")
        width, height = (sides & 0x3FFF) + 1, (sides >> 14 & 0x3FFF) + 1
    elif kind == b"VP8X" and len(start) == 10:
        width, height = (int.from_bytes(start[at : at + 3], "little") + 1 for at in (4, 7))
    else:
        raise DamageError("its size is not told before its pixels")
    if not width or not height:
        raise DamageError("it has no pixels")
    return Header("WEBP", width, height, is_simple=len(data) <= LIGHT_BYTES)


def orientation_of(data: bytes) -> int:
    """The orientation that the notes of a WebP tell, 1 to 8."""
    if data[12:16] != b"VP8X":
        return UPRIGHT  # only the extended format has notes
    turns: dict[bytes, int | None] = {}
    for kind, contents in _notes(data):
        turns.setdefault(kind, (of_exif if kind == b"EXIF" else of_xmp)(contents))
    return turns.get(b"EXIF") or turns.get(b"XMP ") or UPRIGHT


def _notes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 12
    for _ in range(_MAX_CHUNKS):
        kind, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if len(kind) < 4:
            return
        if kind in (b"EXIF", b"XMP "):
            yield kind, data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2
