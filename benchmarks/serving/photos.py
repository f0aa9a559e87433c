"""The photos to send, as a folder of files: as they are, or as large as a camera's."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from zipfile import ZipFile

import numpy as np
from PIL import Image, ImageOps

from offramp.cli.progress import progress
from offramp.errors import ConfigError

_QUALITY = 90
# Levels of brightness. An enlarged photo is smooth, so its file would be small and decode too fast; with as much noise
# as a sensor's, a photo of 12 megapixels takes about as many bytes as one from a phone.
_NOISE = 5.0
_STRIPES = 8  # a camera's size is a multiple of this


@contextmanager
def folder_of(photos: Path, *, count: int = 2000) -> Iterator[Path]:
    """A folder as it is, or a folder of `count` evenly spaced files from test/ in a zip.

    Raises:
        ConfigError: the folder or zip does not exist.
    """
    if photos.is_dir():
        yield photos
        return
    if not photos.exists():
        raise ConfigError(f"{photos} does not exist; give --photos FOLDER")
    with TemporaryDirectory() as folder, ZipFile(photos) as archive:
        names = [n for n in archive.namelist() if n.startswith("test/") and not n.endswith("/")]
        for number, name in enumerate(names[:: max(1, len(names) // count)][:count]):
            (Path(folder) / f"{number:04d}{Path(name).suffix}").write_bytes(archive.read(name))
        yield Path(folder)


def enlarged(folder: Path, megapixels: float, cache: Path, *, count: int = 24) -> Path:
    """A folder of evenly spaced photos of `folder`, enlarged and encoded as a camera would; made once, in `cache`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    chosen = [path.read_bytes() for path in files[:: max(1, len(files) // count)][:count]]
    digest = hashlib.sha256(f"{_QUALITY}, {_NOISE}".encode())
    for photo in chosen:
        digest.update(hashlib.sha256(photo).digest())
    made = cache / f"{megapixels:g}-megapixels-{digest.hexdigest()[:12]}"
    if made.exists():
        return made
    cache.mkdir(parents=True, exist_ok=True)
    with (
        TemporaryDirectory(dir=cache) as scratch,
        progress(f"photos of {megapixels:g} megapixels", len(chosen)) as advance,
    ):
        making = Path(scratch) / "photos"
        making.mkdir()
        for number, photo in enumerate(chosen):
            (making / f"{number:04d}.jpg").write_bytes(_from_camera(photo, megapixels, seed=number))
            advance(1)
        making.rename(made)
    return made


def describe(folder: Path) -> str:
    """How many photos there are, and how large they are, in words."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    some = files[:: max(1, len(files) // 100)]
    megapixels = median(_num_pixels(path) for path in some) / 1e6
    kilobytes = median(path.stat().st_size for path in some) / 1000
    return f"{len(files)} photos of {megapixels:.2g} megapixels and {kilobytes:.3g} kB (medians)"


def _num_pixels(photo: Path) -> int:
    with Image.open(photo) as image:
        return image.width * image.height


def _from_camera(data: bytes, megapixels: float, *, seed: int) -> bytes:
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    scale = math.sqrt(megapixels * 1e6 / (image.width * image.height))
    width, height = (_STRIPES * max(1, round(side * scale / _STRIPES)) for side in image.size)
    large = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS), dtype=np.float32)
    noise = np.random.default_rng(seed).standard_normal((height, width, 1), dtype=np.float32)
    noisy = Image.fromarray((large + _NOISE * noise).clip(0, 255).astype(np.uint8))
    encoded = io.BytesIO()
    noisy.save(encoded, "JPEG", quality=_QUALITY, subsampling="4:2:0")
    return encoded.getvalue()
