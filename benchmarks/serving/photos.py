"""The photos to send, as a folder of files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

from offramp.errors import ConfigError


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
