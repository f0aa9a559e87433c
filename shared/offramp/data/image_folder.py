"""Image folders: one sub-folder per class, in a directory or a zip, with or without train/ and test/."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path, PurePosixPath

import numpy as np

from offramp.bundle.manifest import Preprocessing
from offramp.data.labelled import LabelledImages, Part
from offramp.errors import DataError, RequestError
from offramp.images import decode_image

PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
_PARTS: tuple[Part, ...] = ("train", "test")


def load_image_folder(path: Path, part: Part, preprocessing: Preprocessing) -> LabelledImages:
    """Read one part of an image folder; classes are numbered in the order of their names.

    A folder without train/ and test/ is one part, whichever is asked for.

    Raises:
        DataError: no images, fewer than two classes, no such part, or a file that cannot be read, named.
    """
    with ExitStack() as stack:
        root: Path | zipfile.Path = path
        if path.is_file():
            try:
                root = zipfile.Path(stack.enter_context(zipfile.ZipFile(path)))
            except zipfile.BadZipFile as error:
                raise DataError(f"{path} is neither a directory nor a zip file: {error}") from error
        files = _files_by_class(_part_of(root, part, path))
        labels = tuple(sorted(files))
        if len(labels) < 2:
            raise DataError(
                f"{path} has {len(labels)} sub-folders with images, expected one for each of at least two classes"
            )
        pixels, classes, sources = [], [], []
        for index, label in enumerate(labels):
            for file in files[label]:
                pixels.append(read_photo(file, preprocessing))
                classes.append(index)
                sources.append(str(PurePosixPath(label, file.name)))
    return LabelledImages(np.stack(pixels), np.array(classes, dtype=np.int64), labels, tuple(sources))


def _part_of(root: Path | zipfile.Path, part: Part, path: Path) -> Path | zipfile.Path:
    present = [name for name in _PARTS if (root / name).is_dir()]
    if not present:
        return root
    if part not in present:
        raise DataError(f"{path} has {', '.join(present)}/ but no {part}/")
    return root / part


def _files_by_class(root: Path | zipfile.Path) -> dict[str, list[Path | zipfile.Path]]:
    found = {folder.name: sorted(_images(folder), key=lambda file: file.name) for folder in _entries(root)}
    return {label: files for label, files in found.items() if files}


def _entries(root: Path | zipfile.Path) -> Iterator[Path | zipfile.Path]:
    return (entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _images(folder: Path | zipfile.Path) -> Iterator[Path | zipfile.Path]:
    return (file for file in folder.iterdir() if PurePosixPath(file.name).suffix.lower() in PHOTO_SUFFIXES)


def read_photo(file: Path | zipfile.Path, preprocessing: Preprocessing) -> np.ndarray:
    """One file's pixels, uint8 (H, W, C).

    Raises:
        DataError: it cannot be read or is no photo.
    """
    try:
        data = file.read_bytes()
    except Exception as error:
        # From a damaged zip, zipfile raises whatever it stumbles over.
        raise DataError(f"{file} cannot be read: {error}; fetch it again") from error
    try:
        return decode_image(data, preprocessing)
    except RequestError as error:
        raise DataError(f"{file}: {error}") from error
