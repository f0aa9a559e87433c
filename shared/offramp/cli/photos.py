"""Photos on a disk, as commands are given them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from offramp.errors import DataError

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def photos_in(paths: Iterable[Path]) -> Sequence[Path]:
    """The files that are named, and those below the folders that are named, in the order of their names.

    Raises:
        DataError: a folder without a JPEG, PNG or WebP file in it.
    """
    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        found = photos_below(path)
        if not found:
            raise DataError(f"{path} has no photos; give a folder of JPEG, PNG or WebP files")
        files += found
    return files


def photos_below(folder: Path) -> Sequence[Path]:
    """Every JPEG, PNG and WebP file in a folder and its sub-folders, by its suffix, in the order of their names."""
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in _SUFFIXES)
