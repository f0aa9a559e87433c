"""The header of a PNG, and what Pillow does not do with one.

That is to leave its notes packed, and to read its transparent colour at any bit depth.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from itertools import islice

from PIL import Image

from offramp.engine.images.header import LIGHT_BYTES, LIGHT_PARTS, DamageError, Header
from offramp.engine.images.orientation import UPRIGHT, of_exif, of_xmp

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_FIRST_CHUNK = b"\0\0\0\x0dIHDR"
_PICTURE = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
# The notes that may tell the orientation, by the start of the chunk's contents; the first of each that is whole counts.
_ORIENTING = {
    b"eXIf": b"",
    b"zTXt": b"Raw profile type exif\0",
    b"tEXt": b"Raw profile type exif\0",
    b"iTXt": b"XML:com.adobe.xmp\0",
}
_MAX_TRIES = 8  # notes that are unpacked
_MAX_NOTE_BYTES = 1 << 20  # unpacked
MAX_CHUNKS = 50_000
_BIT_DEPTH_AT = 24  # within the file: the IHDR chunk comes first


def read_header(data: bytes) -> Header:
    """Read the header of a PNG.

    Raises:
        DamageError: it has none.
    """
    if data[8:16] != _FIRST_CHUNK or len(data) < 33:
        raise DamageError("its size is not told before its pixels")
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    if not width or not height:
        raise DamageError("it has no pixels")
    is_simple = len(data) <= LIGHT_BYTES and (_is_bare(data) or _num_chunks(data, LIGHT_PARTS) < LIGHT_PARTS)
    return Header("PNG", width, height, is_simple=is_simple)


def picture_of(data: bytes) -> tuple[bytes, int]:
    """The PNG without its notes, and the orientation that they tell, 1 to 8.

    Notes are text, colour profile, frames of an animation. Pillow would unpack every one, and refuses a whole picture
    for one that is large or damaged.

    Raises:
        DamageError: it has too many chunks.
    """
    if _is_bare(data):
        return data, UPRIGHT
    kept: list[bytes] = [data[:8]]
    turns: dict[bytes, int | None] = {}
    tries = 0
    for kind, start, end in _chunks(data):
        if kind in _PICTURE:
            kept.append(data[start:end])
        elif _may_tell(kind, data, start) and turns.get(kind) is None and tries < _MAX_TRIES:
            tries += 1
            turns[kind] = _turn_told(kind, data[start + 8 : end - 4], data[end - 4 : end])
    return b"".join(kept), next((turns[kind] for kind in _ORIENTING if turns.get(kind)), None) or UPRIGHT


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


def _is_bare(data: bytes) -> bool:
    """Whether there is nothing but IHDR, one IDAT and IEND."""
    return data[37:41] == b"IDAT" and int.from_bytes(data[33:37], "big") + 57 == len(data)


def _num_chunks(data: bytes, most: int) -> int:
    """How many chunks there are, or `most`."""
    return sum(1 for _ in islice(_chunks(data), most))


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of each chunk; the last one may be cut off."""
    start = 8
    for _ in range(MAX_CHUNKS):
        kind = data[start + 4 : start + 8]
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        yield kind, start, end
        if kind == b"IEND" or end >= len(data):
            return
        start = end
    raise DamageError(f"it has more than {MAX_CHUNKS} chunks; save it again with a common program")


def _may_tell(kind: bytes, data: bytes, start: int) -> bool:
    return kind in _ORIENTING and data.startswith(_ORIENTING[kind], start + 8)


def _turn_told(kind: bytes, contents: bytes, checksum: bytes) -> int | None:
    """The orientation that a note tells; None if it tells none, is damaged, or large."""
    if zlib.crc32(contents, zlib.crc32(kind)).to_bytes(4, "big") != checksum:
        return None
    if kind == b"eXIf":
        return of_exif(contents)
    text = _text_of(kind, contents)
    if text is None:
        return None
    return of_xmp(text) if kind == b"iTXt" else of_exif(_from_digits(text))


def _text_of(kind: bytes, contents: bytes) -> bytes | None:
    _, _, rest = contents.partition(b"\0")
    if kind == b"tEXt":
        return rest
    if kind == b"zTXt":
        return _unpacked(rest[1:])
    text = rest[2:].split(b"\0", 2)[-1]  # behind the language and the translated keyword
    return _unpacked(text) if rest[:1] == b"\1" else text


def _unpacked(packed: bytes) -> bytes | None:
    try:
        text = zlib.decompressobj().decompress(packed, _MAX_NOTE_BYTES)
    except zlib.error:
        return None
    return text if len(text) < _MAX_NOTE_BYTES else None


def _from_digits(profile: bytes) -> bytes:
    """The contents of a raw profile: three lines of title, then lines of hexadecimal digits."""
    try:
        return bytes.fromhex(b"".join(profile.split(b"\n")[3:]).decode("ascii"))
    except ValueError:
        return b""
