"""Finds and loads labelled images in any layout: IDX files, an image folder or an archive of one, WebDataset's tars."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from offramp.authoring.data.container import Container, Tar, open_container
from offramp.authoring.data.described import LABELS_FILE, descriptions_in, list_described
from offramp.authoring.data.idx import IDX_PARTS, holds_idx, load_idx
from offramp.authoring.data.labelled import LabelledImages, Part
from offramp.authoring.data.layout import layout_of
from offramp.authoring.data.listing import Listing, list_part
from offramp.authoring.data.reading import CACHE_MB, read_listing
from offramp.authoring.data.shards import Shards, check_samples, holds_samples, list_samples, shards_in
from offramp.authoring.data.suffixes import Sorted, sort_files
from offramp.bundle.manifest import Preprocessing
from offramp.bundle.task import Kind
from offramp.errors import DataError


class DataSet(Protocol):
    """A data set whose photos have not been read yet.

    parts: those it has under their names; none if all of it is a single part, whichever one you ask for.
    """

    parts: frozenset[Part]

    def find(self, part: Part, *, skip_unreadable: bool = False) -> Listing | None:
        """The photos of a part; None if they are not files, so that there is nothing to list.

        Raises:
            DataError: there is no such part, or it cannot be read.
        """
        ...


def open_data(path: Path, kind: Kind = "single_label") -> DataSet:
    """Open a data set in any layout.

    Args:
        path: of the data set.
        kind: of the task it is for.

    Raises:
        DataError: the path does not exist, or has nothing that can be read, or nothing for this task.
    """
    if not path.exists():
        raise DataError(
            f"{path} does not exist; expected an image folder, a zip or tar of one, or a directory of IDX files"
        )
    if holds_idx(path):
        _check_kind(path, kind)
        return _Idx()
    if path.is_dir() and (shards := shards_in(path)):
        _check_kind(path, kind)
        return _Sharded(path, shards)
    container = open_container(path)
    files = sort_files(container)
    if described := descriptions_in(files, path):
        return _Described(container, files, described, kind)
    _check_kind(path, kind)
    if isinstance(container, Tar) and holds_samples(files):
        return _Samples(container, files)
    return _Photos(container, files)


def load_images(
    path: Path,
    part: Part,
    preprocessing: Preprocessing,
    *,
    kind: Kind = "single_label",
    skip_unreadable: bool = False,
    cache_mb: int = CACHE_MB,
    found: Callable[[Listing], Callable[[int], None]] = lambda _: lambda _: None,
) -> LabelledImages:
    """Read one part of a data set in any layout, at the size and mode of `preprocessing`.

    Args:
        path: of the data set.
        part: which of its parts.
        preprocessing: of the network.
        kind: of the network's task.
        skip_unreadable: leave out what cannot be read, and say so in the log.
        cache_mb: most megabytes of decoded photos to keep; see `read_listing`.
        found: called with the photos before they are read; what it returns is called with the number of photos done
            since the last call.

    Raises:
        DataError: the path does not exist, or has nothing that can be read, or some of it cannot be read.
    """
    listing = open_data(path, kind).find(part, skip_unreadable=skip_unreadable)
    if listing is None:
        return load_idx(path, part, preprocessing, cache_mb=cache_mb)
    return read_listing(
        listing, preprocessing, skip_unreadable=skip_unreadable, cache_mb=cache_mb, advance=found(listing)
    )


def _check_kind(path: Path, kind: Kind) -> None:
    if kind != "single_label":
        raise DataError(
            f"{path} has one class for each photo, which is not enough for {kind}; describe the photos in a "
            f"{LABELS_FILE} beside them, with a line for each"
        )


class _Described:
    def __init__(
        self, container: Container, files: Sorted, described: Mapping[Part | None, str], kind: Kind
    ) -> None:
        self._container = container
        self._files = files
        self._described = described
        self._kind = kind
        self.parts = frozenset(part for part in described if part)

    def find(self, part: Part, *, skip_unreadable: bool = False) -> Listing:
        name = self._described.get(part) or self._described.get(None)
        if name is None:
            raise DataError(
                f"{self._container.path} has {', '.join(sorted(self._described.values()))}, but none for {part}/"
            )
        return list_described(self._container, self._files, name, self._kind, skip_unreadable=skip_unreadable)


class _Idx:
    parts = frozenset(IDX_PARTS)

    def find(self, part: Part, *, skip_unreadable: bool = False) -> None:
        return None


class _Photos:
    def __init__(self, container: Container, files: Sorted) -> None:
        self._container = container
        self._layout = layout_of(files, container.path)
        self.parts = frozenset(part for part in self._layout.parts if part)

    def find(self, part: Part, *, skip_unreadable: bool = False) -> Listing:
        return list_part(self._container, self._layout, part, skip_unreadable=skip_unreadable)


class _Samples:
    parts: frozenset[Part] = frozenset()

    def __init__(self, container: Container, files: Sorted) -> None:
        self._container = container
        self._files = files

    def find(self, part: Part, *, skip_unreadable: bool = False) -> Listing:
        return list_samples(self._container, self._files, skip_unreadable=skip_unreadable)


class _Sharded:
    def __init__(self, path: Path, shards: Mapping[Part | None, Sequence[Path]]) -> None:
        self._path = path
        self._shards = shards
        self.parts = frozenset(part for part in shards if part)

    def find(self, part: Part, *, skip_unreadable: bool = False) -> Listing:
        shards = self._shards.get(part) or self._shards.get(None)
        if shards is None:
            raise DataError(
                f"{self._path} has shards for {', '.join(sorted(self.parts))}, but none for {part}"
            )
        container = Shards(self._path, shards)
        files = sort_files(container)
        check_samples(self._path, files)
        return list_samples(container, files, skip_unreadable=skip_unreadable)
