"""Image folders: one sub-folder per class, in a directory or a zip, with or without train/ and test/."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath

import numpy as np

from offramp.authoring.data.labelled import LabelledImages, Part
from offramp.bundle.manifest import Preprocessing
from offramp.engine.images import decode_image
from offramp.errors import DataError, RequestError

PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
_PARTS: tuple[Part, ...] = ("train", "test")


_log = logging.getLogger(__name__)


def load_image_folder(
    path: Path, part: Part, preprocessing: Preprocessing, *, skip_unreadable: bool = False
) -> LabelledImages:
    """Read one part of an image folder; classes are numbered in the order of their names.

    A folder without train/ and test/ counts as a single part, whichever one you ask for.

    Raises:
        DataError: there is no such part, there are fewer than two classes, or some files cannot be read. The message
            counts these files and names the first; with `skip_unreadable`, the log lists them instead.
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
        named = [(index, file) for index, label in enumerate(labels) for file in files[label]]
        photos = read_photos([file for _, file in named], preprocessing, skip_unreadable=skip_unreadable)
    kept = [(pixels, *of) for pixels, of in zip(photos, named, strict=True) if pixels is not None]
    classes = np.array([index for _, index, _ in kept], dtype=np.int64)
    sources = tuple(str(PurePosixPath(labels[index], file.name)) for _, index, file in kept)
    return LabelledImages(np.stack([pixels for pixels, *_ in kept]), classes, labels, sources)


def read_photos(
    files: Sequence[Path | zipfile.Path], preprocessing: Preprocessing, *, skip_unreadable: bool
) -> Sequence[np.ndarray | None]:
    """Pixels of every file, uint8 (H, W, C); None for a file that was skipped because it cannot be read.

    Raises:
        DataError: a file cannot be read; with `skip_unreadable`, only if none of them can.
    """
    photos, errors = list[np.ndarray | None](), list[DataError]()
    for file in files:
        try:
            photos.append(read_photo(file, preprocessing))
        except DataError as error:
            photos.append(None)
            errors.append(error)
    if errors and (not skip_unreadable or len(errors) == len(files)):
        raise DataError(
            f"{len(errors)} of {len(files)} files cannot be read, the first: {errors[0]}; repair or remove them, or "
            "go on without them with --skip-unreadable"
        )
    for unreadable in errors:
        _log.warning("event=skipped detail=%r", str(unreadable))
    return photos


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
        DataError: the file cannot be read, or is not a photo.
    """
    try:
        data = file.read_bytes()
    except Exception as error:
        # zipfile raises almost anything when a zip is damaged.
        raise DataError(f"{file} cannot be read: {error}; fetch it again") from error
    try:
        return decode_image(data, preprocessing)
    except RequestError as error:
        raise DataError(f"{file}: {error}") from error
