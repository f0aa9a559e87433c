"""From the names of files to parts and classes: the one place that knows how people lay out their photos.

Parts are `train/`, `validation/` (also `val/`, `valid/`) and `test/`, if they hold class folders; without them, all
photos are one part. A class is the first folder of its part, and photos in deeper folders belong to it. One folder
around everything, as most archives have, does not count.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from offramp.authoring.data.labelled import Part
from offramp.authoring.data.suffixes import Sorted
from offramp.errors import DataError

PART_NAMES: Mapping[str, Part] = {
    "train": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "test": "test",
}


@dataclass
class ClassFiles:
    """What lies in one class folder: names of photos, of images that we cannot read, and of other files."""

    photos: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class PartFiles:
    """One part: its folder, which is empty or ends with `/`, and its classes by label. A class may lack photos."""

    folder: str
    classes: Mapping[str, ClassFiles]


@dataclass(frozen=True)
class Layout:
    """The parts of a data set; a single one under None if it has no folders for parts.

    left_out: names of images that lie in no class folder.
    """

    parts: Mapping[Part | None, PartFiles]
    left_out: Sequence[str]


def layout_of(files: Sorted, where: Path) -> Layout:
    """Find the parts and classes among the names of files.

    Raises:
        DataError: it cannot be told whether a folder is a part or a class, or there are no class folders.
    """
    images = (*files.photos, *files.unreadable)
    root = _root(images)
    tops = _tops(images, root)
    folders = _part_folders(tops, where)
    if not folders:
        part = _part(files, root)
        return Layout({None: part}, _outside(images, [part]))
    parts: dict[Part | None, PartFiles] = {}
    for folder, name in folders.items():
        if name in parts:
            raise DataError(
                f"{where} has both {parts[name].folder} and {root}{folder}/ for {name}; put them into one folder"
            )
        parts[name] = _part(files, f"{root}{folder}/")
    return Layout(parts, _outside(images, parts.values()))


@dataclass
class _Top:
    """What a folder holds: whether there are images directly in it, and the names of its folders that have any."""

    has_images: bool = False
    inner: set[str] = field(default_factory=set)


def _tops(names: Iterable[str], root: str) -> Mapping[str, _Top]:
    """The folders right below the root."""
    tops: dict[str, _Top] = {}
    for name in names:
        top, *inner = name.removeprefix(root).split("/")
        if name.startswith(root) and inner:
            found = tops.setdefault(top, _Top())
            if len(inner) == 1:
                found.has_images = True
            else:
                found.inner.add(inner[0])
    return tops


def _root(names: Sequence[str]) -> str:
    """The folders that everything lies in, such as `photos/`; they say nothing about parts or classes."""
    root = ""
    while len(tops := _tops(names, root)) == 1:
        ((top, found),) = tops.items()
        is_part = top.lower() in PART_NAMES and not _all_parts(_tops(names, f"{root}{top}/"))
        if not found.inner or is_part:
            break
        root += f"{top}/"
    return root


def _all_parts(tops: Mapping[str, _Top]) -> bool:
    return all(top.lower() in PART_NAMES and found.inner for top, found in tops.items())


def _part_folders(tops: Mapping[str, _Top], where: Path) -> Mapping[str, Part]:
    """The folders that are parts; none if all of them are classes."""
    named = {top: found for top, found in tops.items() if top.lower() in PART_NAMES}
    others = sorted(set(tops) - set(named))
    parts = {top: found.inner for top, found in named.items() if found.inner}
    if others:
        # Beside classes, a folder called `train` with photos directly in it is a class of that name.
        parts = {top: inner for top, inner in parts.items() if not named[top].has_images}
        shared = len(parts) > 1 and bool(set.intersection(*parts.values()))
        if parts and not shared:
            raise DataError(
                f"{where} has {_slashed(sorted(parts))} with folders in it beside {_slashed(others)}, so it is unclear "
                f"whether '{min(parts)}' is a part or a class; put all class folders into train/ and test/, or "
                f"rename it"
            )
    elif named and not parts:
        raise DataError(
            f"{where} has photos directly in {_slashed(sorted(named))}; expected a folder for each class in there"
        )
    return {top: PART_NAMES[top.lower()] for top in sorted(parts)}


def _part(files: Sorted, folder: str) -> PartFiles:
    """The classes of the part in a folder."""
    classes: dict[str, ClassFiles] = {}

    def class_of(name: str) -> ClassFiles | None:
        label, *inner = name.removeprefix(folder).split("/")
        if not name.startswith(folder) or not inner or not label:
            return None
        # macOS and other systems write the same accented letter as different characters.
        return classes.setdefault(unicodedata.normalize("NFC", label), ClassFiles())

    for kind in ("photos", "unreadable", "others"):
        for name in getattr(files, kind):
            if found := class_of(name):
                getattr(found, kind).append(name)
    for name in files.folders:
        class_of(name)
    return PartFiles(folder, classes)


def _outside(images: Iterable[str], parts: Iterable[PartFiles]) -> Sequence[str]:
    placed = {
        name
        for part in parts
        for found in part.classes.values()
        for name in (*found.photos, *found.unreadable)
    }
    return sorted(name for name in images if name not in placed)


def _slashed(folders: Iterable[str]) -> str:
    names = [f"{folder}/" for folder in folders]
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:3])} and {len(names) - 3} more"
