"""WebDataset-style tars: `X.jpg` next to `X.cls` or `X.json`, in one tar or in shards named after their part."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from offramp.authoring.data.container import Container, Tar
from offramp.authoring.data.labelled import Part
from offramp.authoring.data.layout import PART_NAMES
from offramp.authoring.data.listing import Listing
from offramp.authoring.data.suffixes import Sorted, counted, suffix_of
from offramp.errors import DataError

_SHARD = re.compile(rf"({'|'.join(PART_NAMES)})([-_.].*)?\.tar", re.IGNORECASE)
_CLASS_SUFFIXES = (".cls", ".json")
_KEYS = ("cls", "label", "class")


class Shards:
    """The shards of one part as a single container; a name begins with that of its shard."""

    def __init__(self, path: Path, shards: Sequence[Path]) -> None:
        self.path = path
        self._tars = {shard.name: Tar(shard) for shard in shards}
        self.names: Sequence[str] = [
            f"{shard}/{name}" for shard, tar in self._tars.items() for name in tar.names
        ]

    def read(self, name: str, size: int | None = None) -> bytes:
        """See `Container`."""
        shard, _, inner = name.partition("/")
        return self._tars[shard].read(inner, size)


def shards_in(directory: Path) -> Mapping[Part | None, Sequence[Path]]:
    """The tars in a directory by part; under None if none of them is named after a part."""
    tars = sorted(directory.glob("*.tar"))
    parts: dict[Part | None, list[Path]] = {}
    for tar in tars:
        if named := _SHARD.fullmatch(tar.name):
            parts.setdefault(PART_NAMES[named[1].lower()], []).append(tar)
    return parts if parts or not tars else {None: tars}


def holds_samples(files: Sorted) -> bool:
    """Whether a file beside the photos says what each one shows, so that the folders do not matter."""
    if not files.photos:
        return False
    if any(suffix_of(name) == ".cls" for name in files.others):
        return True
    described = {_key(name) for name in files.others if suffix_of(name) == ".json"}
    return all(_key(name) in described for name in files.photos)


def list_samples(container: Container, files: Sorted, *, skip_unreadable: bool) -> Listing:
    """List the samples of one part, in the order of the shards.

    Classes that are numbers keep them; others are numbered in the order of their names.

    Raises:
        DataError: a photo has no class, a class has no photo that can be read (unless `skip_unreadable`), the class
            is neither a number nor a name, or all samples show the same.
    """
    told = {_key(name): name for name in files.others if suffix_of(name) in _CLASS_SUFFIXES}
    _check_complete(container, files, told, skip=skip_unreadable)
    named = [(name, _class_in(container, told[_key(name)])) for name in files.photos if _key(name) in told]
    numbers = all(text.isascii() and text.isdigit() for _, text in named)
    labels = sorted({text for _, text in named}, key=int if numbers else str)
    if len(labels) < 2:
        raise DataError(f"{container.path} has {len(labels)} classes, expected at least two")
    index = {label: int(label) if numbers else number for number, label in enumerate(labels)}
    names = tuple(name for name, _ in named)
    others = [name for name in files.others if suffix_of(name) not in _CLASS_SUFFIXES]
    return Listing(
        container,
        names,
        np.array([index[text] for _, text in named], dtype=np.int64),
        None if numbers else tuple(labels),
        names,
        f"{container.path.name}: {len(labels)} classes, {len(names):,} photos"
        + (f"; other files: {counted(others)}" if others else ""),
    )


def check_samples(path: Path, files: Sorted) -> None:
    """Check that shards hold samples.

    Raises:
        DataError: they hold something else.
    """
    if not holds_samples(files):
        raise DataError(
            f"{path} has tars in it, but no photos with a file X.cls or X.json beside X.jpg; expected WebDataset's "
            "shards, or a single tar of an image folder"
        )


def _check_complete(container: Container, files: Sorted, told: Mapping[str, str], *, skip: bool) -> None:
    unnamed = [name for name in files.photos if _key(name) not in told]
    if unnamed:
        raise DataError(
            f"{container.path}: {len(unnamed)} photos have no class, the first: {unnamed[0]}; add a file X.cls beside "
            "X.jpg"
        )
    photos = {_key(name) for name in files.photos}
    without = [key for key in told if key not in photos]
    if without and not skip:
        raise DataError(
            f"{container.path}: {len(without)} samples have no photo that can be read, the first: {without[0]}"
            f"{_formats(files.unreadable)}; go on without them with --skip-unreadable"
        )


def _formats(unreadable: Iterable[str]) -> str:
    found = counted(unreadable)
    return f" ({found})" if found else ""


def _class_in(container: Container, name: str) -> str:
    data = container.read(name)
    try:
        text = data.decode().strip() if suffix_of(name) == ".cls" else _class_of(json.loads(data))
    except (UnicodeDecodeError, ValueError, KeyError) as error:
        raise DataError(
            f"{container.path}/{name} does not name a class; expected a number or a name, in JSON under 'cls' "
            "or 'label'"
        ) from error
    if not text:
        raise DataError(f"{container.path}/{name} is empty; expected the number or the name of a class")
    return text


def _class_of(described: object) -> str:
    if isinstance(described, dict):
        for key in _KEYS:
            value = described.get(key)
            if isinstance(value, str | int) and not isinstance(value, bool):
                return str(value).strip()
    raise ValueError("no class")


def _key(name: str) -> str:
    """What the files of one sample have in common: the path up to the first dot of the file's name."""
    folder, base = posixpath.split(name)
    return posixpath.join(folder, base.partition(".")[0])
