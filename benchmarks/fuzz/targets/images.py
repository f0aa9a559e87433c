"""Image files: their headers, as the event loop reads them; and the pixels of small ones."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import numpy as np
from PIL import Image, PngImagePlugin

from benchmarks.fuzz.targets import Try
from benchmarks.fuzz.targets.nodes import BUNDLE
from offramp.bundle import load_bundle
from offramp.engine.images import open_images
from offramp.errors import RequestError

MAX_BYTES = 8192
_SIDE = 24


def seeds() -> Iterator[bytes]:
    """One of each kind, with what else a file may hold."""
    pixels = np.random.default_rng(0).integers(0, 255, (_SIDE, _SIDE, 4), dtype=np.uint8)
    colour, clear = Image.fromarray(pixels[..., :3]), Image.fromarray(pixels)
    turned = Image.Exif()
    turned[274] = 6
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Comment", "x" * 200, zip=True)
    notes.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    yield _file(colour, "JPEG", exif=turned)
    yield _file(colour, "JPEG", progressive=True)
    yield _file(colour.convert("CMYK"), "JPEG")
    yield _file(colour.convert("L"), "JPEG")
    yield _file(clear, "PNG", pnginfo=notes)
    yield _file(colour.convert("P"), "PNG", transparency=3)
    yield _file(colour.convert("1"), "PNG")
    yield _file(colour.convert("I;16"), "PNG")
    yield _file(clear, "PNG", save_all=True, append_images=[clear.rotate(90)])
    yield _file(colour, "WEBP", lossless=True)
    yield _file(clear, "WEBP", quality=40, exif=turned)
    yield _file(clear, "WEBP", save_all=True, append_images=[clear.rotate(90)])
    yield _file(colour, "GIF")


def _file(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@asynccontextmanager
async def ready() -> AsyncIterator[Try]:
    """Open each input, and decode it where a node would do that on its loop."""
    preprocessing = load_bundle(BUNDLE).manifest.preprocessing

    async def once(data: bytes) -> None:
        try:
            opened = open_images([data])
            if opened.is_light:
                pixels = opened.decode(preprocessing)
                assert pixels.shape == (1, *preprocessing.pixel_shape)
        except RequestError:
            return

    yield once
