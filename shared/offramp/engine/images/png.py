"""What Pillow does not do with a PNG: leave its notes packed, and read its transparent colour at any bit depth."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from PIL import Image

from offramp.errors import RequestError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PICTURE = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
# The notes that may tell the orientation, by the start of the chunk's contents. The first of each is kept.
_ORIENTING = {
    b"eXIf": b"",
    b"zTXt": b"Raw profile type exif\0",
    b"tEXt": b"Raw profile type exif\0",
    b"iTXt": b"XML:com.adobe.xmp\0",
}
_MAX_NOTE_BYTES = 1 << 20  # unpacked; Pillow refuses a PNG with a larger one
_MAX_CHUNKS = 50_000
_BIT_DEPTH_AT = 24  # within the file: the IHDR chunk comes first


def picture_of(data: bytes) -> bytes:
    """The PNG without its notes: text, colour profile, frames of an animation; the same bytes if it has none.

    Pillow would unpack every note, and refuses a whole picture for one that is large or damaged. What tells the
    orientation stays, unless it is that.

    Raises:
        RequestError: it has too many chunks.
    """
    if data[37:41] == b"IDAT" and int.from_bytes(data[33:37], "big") + 57 == len(data):
        return data  # nothing but IHDR, IDAT and IEND
    kept, seen = [data[:8]], set()
    for kind, start, end in _chunks(data):
        if kind in _PICTURE:
            kept.append(data[start:end])
        elif kind not in seen and _tells_orientation(kind, data[start + 8 : end - 4], data[end - 4 : end]):
            seen.add(kind)
            kept.append(data[start:end])
    plain = b"".join(kept)
    return plain if len(plain) < len(data) else data


def mend_transparency(image: Image.Image, data: bytes) -> None:
    """Give the transparent colour of an opened PNG in the levels that Pillow gives its pixels in.

    Pillow spreads 2 and 4 bits over 8, and keeps the upper 8 bits of 16-bit colour, but leaves the transparent colour
    as it is written in the file. Grey of 16 bits it leaves alone.
    """
    depth, clear = data[_BIT_DEPTH_AT], image.info["transparency"]
    if image.mode == "L" and isinstance(clear, int):
        largest = 2**depth - 1
        image.info["transparency"] = (clear & largest) * 255 // largest
    elif image.mode == "RGB" and isinstance(clear, tuple):
        image.info["transparency"] = tuple(level >> 8 if depth == 16 else level & 0xFF for level in clear)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of each chunk; the last one may be cut off."""
    start = 8
    for _ in range(_MAX_CHUNKS):
        kind = data[start + 4 : start + 8]
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        yield kind, start, end
        if kind == b"IEND" or end >= len(data):
            return
        start = end
    raise RequestError(f"PNG of more than {_MAX_CHUNKS} chunks; save it again with a common program")


def _tells_orientation(kind: bytes, contents: bytes, checksum: bytes) -> bool:
    if kind not in _ORIENTING or not contents.startswith(_ORIENTING[kind]):
        return False
    if zlib.crc32(contents, zlib.crc32(kind)).to_bytes(4, "big") != checksum:
        return False
    packed = _packed(kind, contents)
    return packed is None or _fits(packed)


def _packed(kind: bytes, contents: bytes) -> bytes | None:
    """The part of a note that is compressed; None if none is."""
    _, _, rest = contents.partition(b"\0")
    if kind == b"zTXt":
        return rest[1:]
    if kind == b"iTXt" and rest[:1] == b"\1":
        return rest[2:].split(b"\0", 2)[-1]  # behind the language and the translated keyword
    return None


def _fits(packed: bytes) -> bool:
    try:
        return len(zlib.decompressobj().decompress(packed, _MAX_NOTE_BYTES)) < _MAX_NOTE_BYTES
    except zlib.error:
        return False
