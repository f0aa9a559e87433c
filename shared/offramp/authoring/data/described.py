"""Photos that a file `labels.csv` describes: for any number of labels, or for a number instead of a label.

Its first line is `file,labels` or `file,value`. Each other line names a photo, by its path from the folder that the
file lies in, and its labels, separated by `;`, or its value. If the data has parts, each has a `labels.csv` of its own.
"""

from __future__ import annotations

import csv
import io
import math
import posixpath
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.authoring.data.container import Container
from offramp.authoring.data.labelled import Part
from offramp.authoring.data.layout import PART_NAMES
from offramp.authoring.data.listing import Listing, check_formats
from offramp.authoring.data.suffixes import Sorted
from offramp.bundle.task import Kind
from offramp.errors import DataError

LABELS_FILE = "labels.csv"
_COLUMNS: Mapping[Kind, str] = {"single_label": "labels", "multi_label": "labels", "regression": "value"}
_SEPARATOR = ";"


def descriptions_in(files: Sorted, where: Path) -> Mapping[Part | None, str]:
    """The names of the files `labels.csv`, by the part that each describes; under None if the data has no parts.

    Raises:
        DataError: two describe the same part, or one describes several.
    """
    found: dict[Part | None, str] = {}
    for name in files.others:
        if posixpath.basename(name).lower() != LABELS_FILE:
            continue
        part = PART_NAMES.get(posixpath.basename(posixpath.dirname(name)).lower())
        if part in found:
            raise DataError(
                f"{where} has both {found[part]} and {name}; keep one {LABELS_FILE} for each part"
            )
        found[part] = name
    if None in found:
        _check_whole(files, found[None], where, others=len(found) - 1)
    return found


def _check_whole(files: Sorted, name: str, where: Path, *, others: int) -> None:
    folder = _folder_of(name)
    tops = {photo.removeprefix(folder).split("/")[0].lower() for photo in files.photos if "/" in photo}
    if others or tops & set(PART_NAMES):
        raise DataError(
            f"{where}: {name} would describe several parts at once; put one {LABELS_FILE} into each of train/, "
            "validation/ and test/, with paths from there"
        )


def list_described(
    container: Container, files: Sorted, name: str, kind: Kind, *, skip_unreadable: bool
) -> Listing:
    """List the photos that a `labels.csv` describes, in the order of their names.

    Args:
        container: of the photos.
        files: what is in it.
        name: of the `labels.csv`; the photos in its folder and below belong to it.
        kind: of the task, which says what a line may hold.
        skip_unreadable: leave out images in formats that cannot be read.

    Raises:
        DataError: a photo has no line, or a line no photo; a photo is named twice; a label or a value does not fit the
            task; or there are fewer than two labels.
    """
    folder, where = _folder_of(name), f"{container.path}/{name}"
    mine = {_plain(photo.removeprefix(folder)): photo for photo in files.photos if photo.startswith(folder)}
    unreadable = [image for image in files.unreadable if image.startswith(folder)]
    check_formats(
        container.path, {folder.rstrip("/") or ".": unreadable} if unreadable else {}, skip=skip_unreadable
    )
    rows = _rows(container.read(name), kind, where)
    _check_complete(mine, rows, {_plain(image.removeprefix(folder)) for image in unreadable}, where)
    photos = sorted(mine)
    if not photos:
        raise DataError(f"{where} describes no photo that can be read; give a folder that holds some")
    truths, labels, said = _TRUTHS[kind]([rows[photo] for photo in photos], where)
    summary = f"{folder or 'data'}: {len(photos):,} photos, {said}"
    return Listing(container, tuple(mine[photo] for photo in photos), truths, labels, tuple(photos), summary)


@dataclass(frozen=True)
class _Row:
    """What one line says of a photo."""

    number: int
    file: str
    text: str

    @property
    def labels(self) -> Sequence[str]:
        return [label for part in self.text.split(_SEPARATOR) if (label := _plain(part.strip()))]


def _rows(data: bytes, kind: Kind, where: str) -> Mapping[str, _Row]:
    """The lines by the photo they are about."""
    try:
        lines = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{where} is no table of comma-separated values in UTF-8: {error}") from error
    _check_header([column.strip().lower() for column in lines[0]] if lines else [], kind, where)
    rows: dict[str, _Row] = {}
    for row in _read(lines, where):
        if row.file in rows:
            raise DataError(
                f"{where}, line {row.number}: {row.file} is in line {rows[row.file].number} already; keep one of them"
            )
        rows[row.file] = row
    return rows


def _read(lines: Sequence[Sequence[str]], where: str) -> Iterator[_Row]:
    for number, fields in enumerate(lines[1:], start=2):
        if not fields:
            continue
        if len(fields) != 2:
            raise DataError(
                f"{where}, line {number} has {len(fields)} fields, expected a file and what it shows; separate labels "
                f"with '{_SEPARATOR}', write a decimal point, and quote a name that has a comma"
            )
        yield _Row(number, _plain(fields[0].strip().removeprefix("./")), fields[1].strip())


def _check_header(columns: Sequence[str], kind: Kind, where: str) -> None:
    wanted = ["file", _COLUMNS[kind]]
    if columns == wanted:
        return
    other = next((k for k, column in _COLUMNS.items() if columns == ["file", column]), None)
    if other is not None:
        raise DataError(
            f"{where} has a column '{columns[1]}', but the task {kind} needs '{wanted[1]}'; choose another --task, or "
            "describe the photos for this one"
        )
    raise DataError(
        f"{where} begins with '{','.join(columns)}', expected '{','.join(wanted)}'; rename the columns, or the file if "
        "it is something else"
    )


def _check_complete(
    photos: Mapping[str, str], rows: Mapping[str, _Row], unreadable: set[str], where: str
) -> None:
    if missing := sorted(set(photos) - set(rows)):
        raise DataError(
            f"{where} says nothing of {len(missing)} photos, the first: {missing[0]}; add a line for each, or move "
            "them away"
        )
    if lost := sorted(set(rows) - set(photos) - unreadable):
        raise DataError(
            f"{where}, line {rows[lost[0]].number}: there is no photo {lost[0]}"
            + (f", nor {len(lost) - 1} others" if len(lost) > 1 else "")
            + "; paths start at the folder of this file"
        )


_Truths = tuple[NDArray[Any], tuple[str, ...] | None, str]


def _one_label(rows: Sequence[_Row], where: str) -> _Truths:
    for row in rows:
        if len(set(row.labels)) != 1:
            found = f"{len(set(row.labels))} labels, {', '.join(row.labels)}" if row.labels else "no label"
            raise DataError(
                f"{where}, line {row.number}: {row.file} has {found}, but with the task single_label every photo has "
                "exactly one; train with --task multi_label, or keep one label for each photo"
            )
    labels = _labels(rows, where)
    classes = np.array([labels.index(row.labels[0]) for row in rows], dtype=np.int64)
    return classes, labels, f"{len(labels)} labels, one for each"


def _any_labels(rows: Sequence[_Row], where: str) -> _Truths:
    labels = _labels(rows, where)
    index = {label: number for number, label in enumerate(labels)}
    given = np.zeros((len(rows), len(labels)), dtype=np.uint8)
    for at, row in enumerate(rows):
        given[at, [index[label] for label in row.labels]] = 1
    return given, labels, f"{len(labels)} labels, {given.sum() / len(rows):.2f} on average"


def _labels(rows: Sequence[_Row], where: str) -> tuple[str, ...]:
    labels = tuple(sorted({label for row in rows for label in row.labels}))
    if len(labels) < 2:
        raise DataError(f"{where} has {len(labels)} labels in all, expected at least two")
    return labels


def _values(rows: Sequence[_Row], where: str) -> _Truths:
    values = np.array([_number(row, where) for row in rows], dtype=np.float32)
    return values, None, f"values from {values.min():g} to {values.max():g}"


def _number(row: _Row, where: str) -> float:
    try:
        value = float(row.text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(
            f"{where}, line {row.number}: the value of {row.file} is '{row.text}', expected a number such as 12.5"
        )
    return value


_TRUTHS = {"single_label": _one_label, "multi_label": _any_labels, "regression": _values}


def _folder_of(name: str) -> str:
    return name[: -len(posixpath.basename(name))]


def _plain(text: str) -> str:
    # macOS and other systems write the same accented letter as different characters.
    return unicodedata.normalize("NFC", text)
