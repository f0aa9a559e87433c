"""The header of a JPEG, and the JPEG without its notes.

Pillow reads each segment in Python, one byte at a time where there is junk between them, and makes values of everything
in the notes. So what it gets has neither.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from offramp.engine.images.header import LIGHT_BYTES, LIGHT_PARTS, DamageError, Header
from offramp.engine.images.orientation import UPRIGHT, of_exif, of_xmp

SIGNATURE = b"\xff\xd8\xff"
MAX_SEGMENTS = 1000  # before the first scan; an ICC profile may take 255, XMP data some more
MAX_SCANS = 100  # a progressive photo has about ten
_MAX_JUNK = 1 << 16
_MAX_KEPT = 1 << 18  # a table takes some hundred bytes, a thumbnail up to 64 kB

_SCAN, _END, _APP1, _COMMENT = 0xDA, 0xD9, 0xE1, 0xFE
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers that no segment follows
# APP0 and APP14 say how the colours are to be read.
_NOTES = frozenset({*range(0xE1, 0xF0), _COMMENT}) - {0xEE}
_EXIF = b"Exif\0\0"
_XMP = b"http://ns.adobe.com/xap/1.0/\0"

_MARKER = re.compile(rb"\xff[^\x00\xff]")
_MARKER_IN_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def read_header(data: bytes) -> Header:
    """Read the header of a JPEG.

    Raises:
        DamageError: it has none, it breaks off, or there is more in it than is read here.
    """
    frame, count, at = b"", 0, 2
    kept, kept_bytes, exif, xmp = [data[:2]], 2, None, None
    for marker, start, at in _segments(data):
        count += 1
        if marker in _NOTES:
            if marker == _APP1:
                exif = exif or (of_exif(data[start + 4 : at]) if data.startswith(_EXIF, start + 4) else None)
                xmp = xmp or (of_xmp(data[start + 4 : at]) if data.startswith(_XMP, start + 4) else None)
            continue
        if marker in _FRAMES:
            if frame:
                raise DamageError("it has two frames")
            frame = data[start + 5 : start + 10]
        kept.append(data[start:at])
        kept_bytes += at - start
        if kept_bytes > _MAX_KEPT:
            raise DamageError(f"it has more than {_MAX_KEPT} bytes of tables before its pixels")
    height, width = int.from_bytes(frame[:2], "big"), int.from_bytes(frame[2:4], "big")
    if not height or not width:
        raise DamageError("its size is not told before its pixels")
    is_simple = len(data) <= LIGHT_BYTES and count <= LIGHT_PARTS
    # In a scan these two bytes are a marker and nothing else. In notes they may be anything, so there may be fewer.
    num_scans = 1 + data.count(b"\xff\xda", at) if is_simple else 1
    components = int.from_bytes(frame[4:], "big")
    turn = exif or xmp or UPRIGHT
    return Header("JPEG", width, height, num_scans, is_simple, turn, b"".join(kept), at, components)


def picture_of(data: bytes, header: Header) -> bytes:
    """The JPEG without its notes.

    Raises:
        DamageError: it has too many scans.
    """
    _check_scans(data, header.rest)
    return header.front + data[header.rest :]


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment up to that of the first scan, which is the last one."""
    at, junk = 2, 0
    for _ in range(MAX_SEGMENTS):
        found = _MARKER.match(data, at) or _MARKER.search(data, at, at + _MAX_JUNK - junk)
        if found is None:
            raise DamageError("no segment follows where one should")
        start, end = found.span()
        junk += start - at
        marker = data[end - 1]
        if marker in _ALONE:
            at = end
            continue
        length = data[end] << 8 | data[end + 1] if end + 2 <= len(data) else 0
        at = end + length
        if marker == _END or length < 2 or at > len(data):
            raise DamageError("it ends within its header")
        yield marker, start, at
        if marker == _SCAN:
            return
    raise DamageError(
        f"it has more than {MAX_SEGMENTS} segments before its pixels; save it again with a common program"
    )


def _check_scans(data: bytes, at: int) -> None:
    """Check how many scans there are from the pixels of the first one, which begin at `at`."""
    if 1 + data.count(b"\xff\xda", at) <= MAX_SCANS:
        return
    num_scans = 1
    while (found := _MARKER_IN_SCAN.search(data, at)) and (marker := data[found.end() - 1]) != _END:
        at = found.end() + (
            0 if marker in _ALONE else int.from_bytes(data[found.end() : found.end() + 2], "big")
        )
        num_scans += marker == _SCAN
        if num_scans > MAX_SCANS:
            raise DamageError(
                f"it goes over its pixels more than {MAX_SCANS} times; save it again with a common program"
            )
