"""Finds the photos among the files and folders that a command is given."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from offramp.engine.images import PHOTO_SUFFIXES
from offramp.errors import DataError


def photos_in(paths: Iterable[Path]) -> Sequence[Path]:
    """The given files, and the photos below the given folders, sorted by name within each folder.

    Raises:
        DataError: a folder has no photo in it.
    """
    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        found = photos_below(path)
        if not found:
            raise DataError(f"{path} has no photos; give a folder of JPEG, PNG, WebP or HEIC files")
        files += found
    return files


def photos_below(folder: Path) -> Sequence[Path]:
    """Every photo in a folder and its sub-folders, recognised by its suffix, sorted by name."""
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in PHOTO_SUFFIXES)
