"""Unpacks CIFAR-10's binary version, an archive of plain records, into an image folder.

A record is one byte for the class and 3,072 for the pixels: all red values row by row, then green, then blue. We avoid
the Python version because it is a pickle, and loading a pickle can run code.
"""

from __future__ import annotations

import secrets
import shutil
import tarfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from offramp.authoring.data.labelled import Part
from offramp.errors import DataError

_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_SHAPE = (3, 32, 32)
_RECORD = 1 + 3 * 32 * 32
_FILES: Mapping[Part, Sequence[str]] = {
    "train": [f"data_batch_{number}.bin" for number in range(1, 6)],
    "test": ["test_batch.bin"],
}


def has_cifar10(directory: Path) -> bool:
    """Whether both parts are already unpacked; their folders appear only once both are complete.

    Raises:
        DataError: the directory has something else under these names.
    """
    present = [part for part in _FILES if (directory / part).exists()]
    for part in present:
        folder = directory / part
        if len(present) < len(_FILES) or {path.name for path in folder.iterdir()} != set(_CLASSES):
            raise DataError(
                f"{folder} exists, but is not CIFAR-10; move it away, or choose another directory with --out"
            )
    return bool(present)


def unpack_cifar10(
    archive: Path, directory: Path, *, advance: Callable[[int], None] = lambda _: None
) -> None:
    """Write train/<class>/NNNNN.png and test/<class>/NNNNN.png; the number is the record's position in its part.

    Args:
        archive: cifar-10-binary.tar.gz.
        directory: where the two folders go; they must not exist yet.
        advance: called with the number of images written since the last call.

    Raises:
        DataError: the archive cannot be read, or is not CIFAR-10's binary version.
        OSError: the folders cannot be written.
    """
    files = _read(archive)
    partial = directory / f".unpacking-{secrets.token_hex(4)}"
    try:
        for part, names in _FILES.items():
            if lacking := [name for name in names if name not in files]:
                raise DataError(f"{archive} lacks {lacking[0]}; fetch CIFAR-10's binary version again")
            records = _by_record(b"".join(files[name] for name in names), archive)
            _write(records, partial / part, advance)
        for part in _FILES:
            (partial / part).rename(directory / part)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _read(archive: Path) -> Mapping[str, bytes]:
    """The contents of every file in the archive, by file name without the folder."""
    found = {}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                if content := tar.extractfile(member):
                    found[PurePosixPath(member.name).name] = content.read()
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(f"{archive} cannot be read as an archive: {error}; fetch it again") from error
    return found


def _by_record(data: bytes, archive: Path) -> NDArray[np.uint8]:
    if not data or len(data) % _RECORD:
        raise DataError(
            f"{archive} has {len(data)} bytes of images, not a multiple of {_RECORD}; fetch it again"
        )
    return np.frombuffer(data, dtype=np.uint8).reshape(-1, _RECORD)


def _write(records: NDArray[np.uint8], folder: Path, advance: Callable[[int], None]) -> None:
    for name in _CLASSES:
        (folder / name).mkdir(parents=True)
    for number, record in enumerate(records):
        pixels_HWC = record[1:].reshape(_SHAPE).transpose(1, 2, 0)
        # A file this small fills one disk block however well it is compressed, so compress fast.
        file = folder / _CLASSES[record[0]] / f"{number:05d}.png"
        Image.fromarray(pixels_HWC).save(file, compress_level=1)
        advance(1)
