"""Which way up a photo was taken, as its notes tell: EXIF or XMP. Reads that one number and nothing else.

A general reader of EXIF data makes a value of every entry, and the entries may overlap: 64 kB of notes become
gigabytes.
"""

from __future__ import annotations

import re
import struct

UPRIGHT = 1
_TAG = 0x0112
_FORMATS = {1: "B", 3: "H", 4: "I"}  # BYTE, SHORT and LONG, by the numbers that TIFF 6.0 gives them
_MOST_ENTRIES = 200  # a camera writes about 20 before the orientation
_IN_XMP = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')


def of_exif(notes: bytes) -> int | None:
    """The orientation, 1 to 8, that EXIF data tells, with or without `Exif\\0\\0` before it; None if it tells none."""
    start = 6 if notes.startswith(b"Exif\0\0") else 0
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(notes[start : start + 4])
    if order is None:
        return None
    try:
        (first,) = struct.unpack_from(f"{order}I", notes, start + 4)
        (count,) = struct.unpack_from(f"{order}H", notes, start + first)
        return _in_entries(notes, start + first + 2, min(count, _MOST_ENTRIES), order)
    except struct.error:
        return None


def of_xmp(notes: bytes) -> int | None:
    """The orientation, 1 to 8, that XMP data tells; None if it tells none."""
    found = _IN_XMP.search(notes)
    return int(found[1]) if found else None


def _in_entries(notes: bytes, at: int, count: int, order: str) -> int | None:
    for place in range(at, at + 12 * count, 12):
        tag, kind, length = struct.unpack_from(f"{order}HHI", notes, place)
        if tag == _TAG and kind in _FORMATS and length == 1:
            (found,) = struct.unpack_from(f"{order}{_FORMATS[kind]}", notes, place + 8)
            return int(found) if 1 <= found <= 8 else None
    return None
