"""What Pillow does not do with a PNG: read it without its notes, and its transparent colour at any bit depth."""

from __future__ import annotations

import zlib

from PIL import Image

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# The chunks that make up the picture, and the one with its orientation.
_PICTURE = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"eXIf", b"IEND"}
_MAX_EXIF_BYTES = 65_536  # as in a JPEG
_BIT_DEPTH_AT = 24  # within the file: the IHDR chunk comes first


def without_notes(data: bytes) -> bytes | None:
    """The PNG with its picture alone, without text, XMP and colour profile; None if that is no other file.

    Nothing is unpacked. A damaged note is left out, a damaged picture stays so.
    """
    if not data.startswith(_SIGNATURE):
        return None
    kept, place, view = [data[:8]], 8, memoryview(data)
    while place + 12 <= len(data):
        length, kind = int.from_bytes(view[place : place + 4], "big"), bytes(view[place + 4 : place + 8])
        end = place + 12 + length
        if kind in _PICTURE and not (kind == b"eXIf" and _is_unfit(view[place:end], length)):
            kept.append(bytes(view[place:end]))
        if kind == b"IEND":
            break
        place = end
    plain = b"".join(kept)
    return plain if len(plain) < len(data) and not data.startswith(plain) else None


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


def _is_unfit(chunk: memoryview, length: int) -> bool:
    return length > _MAX_EXIF_BYTES or zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big")
