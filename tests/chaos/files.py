"""Files that take little to send and much to read, and photos as anybody sends them. All are made here."""

from __future__ import annotations

import io
import json
import struct
import zlib
from functools import cache

import numpy as np
from PIL import Image

_SOS, _EOI = b"\xff\xda", b"\xff\xd9"


@cache
def photos(count: int = 8, width: int = 640, height: int = 480) -> tuple[bytes, ...]:
    """JPEG photos of soft blobs, some 20 kB each."""
    generator = np.random.default_rng(0)
    found = []
    for _ in range(count):
        coarse = generator.integers(0, 255, (height // 32, width // 32, 3), dtype=np.uint8)
        found.append(
            _encoded(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), "JPEG")
        )
    return tuple(found)


@cache
def small_photo(side: int = 32) -> bytes:
    """One PNG of noise."""
    pixels = np.random.default_rng(1).integers(0, 255, (side, side, 3), dtype=np.uint8)
    return _encoded(Image.fromarray(pixels), "PNG")


@cache
def repeated_scan(times: int, width: int = 4900, height: int = 5000) -> bytes:
    """A flat progressive JPEG whose last scan comes `times` times too often; each is a pass over all pixels."""
    plain = _encoded(Image.new("RGB", (width, height), (90, 120, 60)), "JPEG", progressive=True, quality=30)
    last = plain.rindex(_SOS)
    scan = plain[last : plain.rindex(_EOI)]
    return plain[:last] + scan * (times + 1) + _EOI


@cache
def flat_webp(width: int = 4990, height: int = 5000) -> bytes:
    """A lossless WebP of one colour: about 1 kB for a canvas of 100 MB."""
    return _encoded(Image.new("RGB", (width, height), (1, 2, 3)), "WEBP", lossless=True)


@cache
def many_chunks(count: int = 800_000) -> bytes:
    """A PNG with `count` empty chunks before its pixels."""
    plain = small_photo()
    header = 8 + 25
    return plain[:header] + _chunk(b"zzZz", b"") * count + plain[header:]


@cache
def many_segments(count: int = 2_000_000) -> bytes:
    """A JPEG with `count` empty comments before its pixels."""
    plain = photos()[0]
    return plain[:2] + b"\xff\xfe\x00\x02" * count + plain[2:]


@cache
def many_keys(count: int = 700_000) -> bytes:
    """8 MB of JSON: an object of `count` short keys."""
    return b'{"image": "",' + b",".join(b'"%x":1' % number for number in range(count)) + b"}"


@cache
def deep_json(depth: int = 4_000_000) -> bytes:
    """Lists within lists."""
    return b'{"images": ' + b"[" * depth


@cache
def many_parts(count: int = 200_000) -> bytes:
    """A multipart body (its boundary is `x`) of `count` empty files."""
    head = b'--x\r\nContent-Disposition: form-data; name="i"; filename="f"\r\n\r\n\r\n'
    return head * count + b"--x--\r\n"


@cache
def text_bomb(megabytes: int = 60) -> bytes:
    """A PNG with notes that unpack to that many megabytes."""
    plain = small_photo()
    packed = zlib.compress(b" " * (megabytes * 1_000_000), 9)
    return plain[:33] + _chunk(b"zTXt", b"Comment\0\0" + packed) + plain[33:]


def form(files: list[bytes], *, boundary: bytes = b"x", epilogue: bytes = b"") -> bytes:
    """A multipart body of files."""
    head = b'--%b\r\nContent-Disposition: form-data; name="images"; filename="p"\r\n\r\n' % boundary
    return b"".join(head + file + b"\r\n" for file in files) + b"--%b--\r\n" % boundary + epilogue


def as_json(text: str) -> bytes:
    """A JSON body with one image."""
    return json.dumps({"image": text}).encode()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
