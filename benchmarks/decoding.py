"""What decoding costs by format and in a process, how soon a killed one is replaced, and the memory of a pixel at most.

    python -m benchmarks.decoding --photos samples/grocery

It makes its own photos, but for those that it turns into every format. Each way decodes the same ones in turn, round
after round, on an otherwise idle machine. Where the package `imagecodecs` is installed, a column says what libpng,
libwebp and libjpeg-turbo take by themselves: what another library could gain at most.
"""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
from PIL import Image
from pydantic import Field
from rich.console import Console
from rich.table import Table

from offramp.bundle import Preprocessing
from offramp.command import Command, run_command
from offramp.engine.images import open_images, turbo
from offramp.serving.decoding.decoders import Decoders, DecodingLimits

_SIZES = {"640 × 480 JPEG": (640, 480), "12-megapixel JPEG": (4000, 3000)}
_WHOLE = Preprocessing(width=224, height=224, mode="RGB", mean=(0.5,) * 3, std=(0.5,) * 3)
_PREPROCESSING = _WHOLE.model_copy(update={"jpeg_margin": 2})
# The kinds that take most: formats, and what Pillow is told when it writes them.
_KINDS: dict[str, tuple[str, str, dict[str, object]]] = {
    "WebP, on its side": (
        "WEBP",
        "RGB",
        {
            "lossless": True,
            "exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0",
        },
    ),
    "WebP": ("WEBP", "RGB", {"lossless": True}),
    "PNG with transparency": ("PNG", "RGBA", {}),
    "progressive JPEG": ("JPEG", "RGB", {"progressive": True}),
}
_SIDE = 3000
_TURNS, _CALLS = 7, 500
_PHOTOS, _SIDES = 20, (32, 348)
_FORMATS: dict[str, tuple[str, dict[str, object]]] = {
    "JPEG, quality 90": ("JPEG", {"quality": 90}),
    "PNG": ("PNG", {}),
    "WebP, quality 80": ("WEBP", {"quality": 80}),
    "WebP without loss": ("WEBP", {"lossless": True}),
}


class Decoding(Command):
    """Time decoding in the loop's thread, in a worker thread and in a process, and weigh a pixel.

    Example: python -m benchmarks.decoding --rounds 60
    """

    photos: Path = Field(
        default=Path("samples/grocery"), description="folder of photos to turn into every format"
    )
    rounds: int = Field(default=60, ge=1, description="times that each way decodes each photo")

    def execute(self) -> None:
        """Measure, and print the tables."""
        console = Console()
        console.print(_small_photo())
        console.print(_formats(self.photos))
        console.print(asyncio.run(_times(self.rounds)))
        table = Table(
            "image", "bytes a pixel, at most", title=f"{_SIDE} × {_SIDE} pixels, in a process of its own"
        )
        for name, (kind, mode, options) in _KINDS.items():
            table.add_row(name, f"{_bytes_a_pixel(kind, mode, options):.1f}")
        console.print(table)


def _small_photo() -> Table:
    """A photo of the size of CIFAR-10's, by libjpeg-turbo directly and by Pillow."""
    photo, ways = _photo((32, 32)), {"libjpeg-turbo, directly": turbo.decoded, "Pillow": lambda *_: None}
    wanted = _WHOLE.model_copy(update={"width": 32, "height": 32})
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(_TURNS):
        for name, decoded in ways.items():
            with patch.object(turbo, "decoded", decoded):
                begun = time.perf_counter()
                for _ in range(_CALLS):
                    open_images([photo]).decode(wanted)
                found[name].append((time.perf_counter() - begun) / _CALLS)
    table = Table("decoded by", "µs", title="32 × 32 JPEG, header and limits included")
    for name, times in found.items():
        table.add_row(name, f"{1e6 * median(times):.0f}")
    return table


def _formats(folder: Path) -> Table:
    """The same photos in every format: by Offramp, with resizing where they are larger than the network's input."""
    files = sorted(path for path in folder.rglob("*.*") if path.is_file())[:_PHOTOS]
    alone = import_module("imagecodecs") if find_spec("imagecodecs") else None
    table = Table("pixels", "format", "bytes", "µs", *(["the format's library alone, µs"] if alone else []))
    table.title = f"{len(files)} photos of {folder}, decoded for a network of at most 224 pixels"
    for side in _SIDES:
        width = min(side, 224)
        wanted = _WHOLE.model_copy(update={"width": width, "height": width})
        for name, (kind, options) in _FORMATS.items():
            photos = [
                _as_file(Image.open(file).convert("RGB").resize((side, side)), kind, **options)
                for file in files
            ]
            ways: list[Callable[[bytes], object]] = [partial(_decoded, wanted)]
            if alone:
                ways.append(getattr(alone, f"{kind.lower()}_decode"))
            size = sum(map(len, photos)) / len(photos)
            table.add_row(
                f"{side} × {side}", name, f"{size:.0f}", *(f"{us:.0f}" for us in _turns_us(ways, photos))
            )
    return table


def _decoded(preprocessing: Preprocessing, photo: bytes) -> object:
    return open_images([photo]).decode(preprocessing)


def _turns_us(ways: Sequence[Callable[[bytes], object]], photos: Sequence[bytes]) -> list[float]:
    """Microseconds that each way takes for one photo, taking turns."""
    found: list[list[float]] = [[] for _ in ways]
    for _ in range(_TURNS):
        for way, times in zip(ways, found, strict=True):
            begun = time.perf_counter()
            for photo in photos:
                way(photo)
            times.append(1e6 * (time.perf_counter() - begun) / len(photos))
    return [median(times) for times in found]


def _as_file(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _photo(size: tuple[int, int], kind: str = "JPEG", mode: str = "RGB", **options: object) -> bytes:
    shape = (size[1], size[0], len(mode))
    pixels = np.random.default_rng(0).integers(
        0, 255, (shape[0] // 8 + 1, shape[1] // 8 + 1, shape[2]), np.uint8
    )
    image = Image.fromarray(np.repeat(np.repeat(pixels, 8, 0), 8, 1)[: shape[0], : shape[1]])
    return _as_file(image, kind, **options)


async def _times(rounds: int) -> Table:
    loop, threads = asyncio.get_running_loop(), ThreadPoolExecutor(1)
    decoders = Decoders(DecodingLimits(processes=1))
    found: dict[str, dict[str, list[float]]] = {}
    try:
        for name, size in _SIZES.items():
            photo = _photo(size)
            ways = found[name] = {"in the loop's thread": [], "worker thread": [], "process": []}
            for _ in range(rounds):
                for way, times in ways.items():
                    load = partial(open_images([photo]).decode, _PREPROCESSING)
                    begun = time.perf_counter()
                    if way == "worker thread":
                        await loop.run_in_executor(threads, load)
                    elif way == "process":
                        await decoders.decode(load, num_pixels=size[0] * size[1], shape=(1, 224, 224, 3))
                    else:
                        load()
                    times.append((time.perf_counter() - begun) * 1000)
        replaced = [await _replacement_ms(decoders) for _ in range(10)]
    finally:
        decoders.close()
        threads.shutdown()
    table = Table("decoded", *_SIZES, title=f"milliseconds, median of {rounds}")
    for way in ("in the loop's thread", "worker thread", "process"):
        table.add_row(way, *(f"{median(found[name][way]):.1f}" for name in _SIZES))
    table.caption = (
        f"the next photo is decoded {min(replaced):.0f} to {max(replaced):.0f} ms after one was given up"
    )
    return table


async def _replacement_ms(decoders: Decoders) -> float:
    """Milliseconds from giving up one that would take long until the next, small one is decoded."""
    asked: dict[str, Any] = {"num_pixels": 640 * 480, "shape": (1, 224, 224, 3)}
    forever: Any = partial(time.sleep, 60)  # makes no pixels
    stuck = asyncio.ensure_future(decoders.decode(forever, **asked))
    await asyncio.sleep(0.1)
    begun = time.perf_counter()
    stuck.cancel()
    with suppress(asyncio.CancelledError):
        await stuck
    await decoders.decode(partial(open_images([_SMALL]).decode, _PREPROCESSING), **asked)
    return (time.perf_counter() - begun) * 1000


_SMALL = _photo((32, 32))


def _bytes_a_pixel(kind: str, mode: str, options: dict[str, object]) -> float:
    """Peak memory while one image is decoded, beyond that for a tiny one of the same kind."""
    with TemporaryDirectory() as folder:
        peaks = []
        for side in (16, _SIDE):
            file = Path(folder) / f"{side}"
            file.write_bytes(_photo((side, side), kind, mode, **options))
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.decoding", "--peak-of", str(file)],
                check=True,
                capture_output=True,
                text=True,
            )
            peaks.append(int(done.stdout))
    return (peaks[1] - peaks[0]) / _SIDE**2


def _print_peak_of(file: Path) -> None:
    data = file.read_bytes()
    open_images([data]).decode(_WHOLE)
    # Not ru_maxrss, which begins with that of the process that started this one.
    told = Path("/proc/self/status").read_text(encoding="ascii").partition("VmHWM:")[2]
    print(int(told.split()[0]) * 1024 - len(data))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak-of"]:
        _print_peak_of(Path(sys.argv[2]))
    else:
        run_command(Decoding, sys.argv[1:], program="python -m benchmarks.decoding")
