"""The photos of one part, found but not read yet."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.authoring.data.container import Container
from offramp.authoring.data.labelled import Part
from offramp.authoring.data.layout import ClassFiles, Layout, PartFiles
from offramp.authoring.data.suffixes import counted
from offramp.errors import DataError
from offramp.logs import line

_NAMED = 4
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Listing:
    """Photos and their classes, or other truths; see `LabelledImages`.

    names: of the files in the container. labels: None if the classes have only numbers. sources: a name for each photo,
    by which to find it again. summary: one line that says what was found and what was left out.
    """

    container: Container
    names: tuple[str, ...]
    classes: NDArray[Any]
    labels: tuple[str, ...] | None
    sources: tuple[str, ...]
    summary: str

    def __len__(self) -> int:
        return len(self.names)


def list_part(container: Container, layout: Layout, part: Part, *, skip_unreadable: bool) -> Listing:
    """List one part of an image folder; classes are numbered in the order of their names.

    A data set without folders for parts counts as a single part, whichever one you ask for.

    Raises:
        DataError: there is no such part, fewer than two classes have photos, or there are images that cannot be read
            or classes without any photo. With `skip_unreadable`, the log lists these instead.
    """
    found = _part_of(layout, part, container.path)
    _check_part(container.path, found, skip=skip_unreadable)
    files = {label: found.classes[label] for label in sorted(found.classes) if found.classes[label].photos}
    if len(files) < 2:
        raise DataError(
            f"{container.path} has {len(files)} sub-folders with images, expected one for each of at least two classes"
        )
    labels = tuple(files)
    # By the path within the class, so that the order does not depend on what lies around it.
    named = [
        (index, label, name)
        for index, (label, of_class) in enumerate(files.items())
        for name in sorted(of_class.photos, key=lambda name: _within(name, found.folder))
    ]
    return Listing(
        container,
        tuple(name for _, _, name in named),
        np.array([index for index, _, _ in named], dtype=np.int64),
        labels,
        tuple(f"{label}/{_within(name, found.folder)}" for _, label, name in named),
        _summary(found, files, layout.left_out),
    )


def _part_of(layout: Layout, part: Part, where: Path) -> PartFiles:
    found = layout.parts.get(part) or layout.parts.get(None)
    if found is None:
        present = ", ".join(of.folder for of in layout.parts.values())
        raise DataError(f"{where} has {present} but no {part}/")
    return found


def _within(name: str, folder: str) -> str:
    """The path of a photo within its class folder."""
    return name.removeprefix(folder).partition("/")[2]


def check_formats(where: Path, unreadable: Mapping[str, Sequence[str]], *, skip: bool) -> None:
    """Refuse images in formats that we cannot read, or log them.

    Args:
        where: the data set.
        unreadable: names of these images by folder.
        skip: go on without them.

    Raises:
        DataError: there are some, and they are not to be skipped.
    """
    if not skip and unreadable:
        raise DataError(
            f"{where}: {sum(map(len, unreadable.values()))} images are in a format that cannot be read: "
            f"{_some(f'{folder}/ has {counted(names)}' for folder, names in unreadable.items())}; convert "
            "them to JPEG, PNG, WebP or BMP, or go on without them with --skip-unreadable"
        )
    for folder, names in unreadable.items():
        _log.warning(line("skipped", folder=folder, files=counted(names)))


def _check_part(where: Path, part: PartFiles, *, skip: bool) -> None:
    unreadable = {part.folder + label: of.unreadable for label, of in part.classes.items() if of.unreadable}
    check_formats(where, unreadable, skip=skip)
    empty = {part.folder + label: of for label, of in part.classes.items() if not of.photos}
    if not skip and empty:
        raise DataError(
            f"{where}: no photos in {_some(_emptiness(folder, of) for folder, of in empty.items())}; add some, remove "
            "the folder, or go on without it with --skip-unreadable"
        )
    for folder in empty:
        _log.warning(line("skipped", folder=folder, detail="no photos"))


def _emptiness(folder: str, found: ClassFiles) -> str:
    return f"{folder}/ ({counted(found.others)})" if found.others else f"{folder}/"


def _some(texts: Iterable[str]) -> str:
    every = sorted(texts)
    shown = ", ".join(every[:_NAMED])
    return shown if len(every) <= _NAMED else f"{shown} and {len(every) - _NAMED} more"


def _summary(part: PartFiles, files: Mapping[str, ClassFiles], left_out: Sequence[str]) -> str:
    photos = [name for of in files.values() for name in of.photos]
    deeper = sum("/" in _within(name, part.folder) for name in photos)
    others = [name for of in part.classes.values() for name in of.others]
    text = f"{part.folder or 'data'}: {len(files)} classes, {len(photos):,} photos"
    text += f" ({deeper:,} in deeper folders)" if deeper else ""
    text += f"; other files: {counted(others)}" if others else ""
    if left_out:
        text += (
            f"; {len(left_out):,} images lie in no class folder and are left out, the first: {left_out[0]}"
        )
        first = PurePosixPath(left_out[0])
        _log.warning(line("left_out", images=len(left_out), first=first, detail="in no class folder"))
    return text
