"""What a data set's files lie in: a folder, a zip or a tar, each listing names and reading one file's bytes.

Every container may be read from several threads at once, and from processes forked after it was opened: archives are
read with `pread`, which has no position that two readers could disturb. Nothing is ever unpacked to the disk.
"""

from __future__ import annotations

import os
import posixpath
import tarfile
import weakref
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from offramp.errors import DataError

_LOCAL_HEADER = 30
_ENCRYPTED = 0x1


class Container(Protocol):
    """Files by name; a name is a path with forward slashes, and that of a folder ends with one.

    path: where it lies, for messages. names: of all files, and of those folders that are listed on their own.
    """

    path: Path
    names: Sequence[str]

    def read(self, name: str, size: int | None = None) -> bytes:
        """The contents of a file, or the first `size` bytes.

        Raises:
            DataError: it cannot be read, or is damaged.
        """
        ...


def open_container(path: Path) -> Container:
    """Open a folder, a zip or a tar.

    Raises:
        DataError: it is none of these, or is a compressed tar, which cannot be read in any order.
    """
    if path.is_dir():
        return Folder(path)
    try:
        if zipfile.is_zipfile(path):
            return Zip(path)
        if tarfile.is_tarfile(path):
            return Tar(path)
    except (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}; fetch it again") from error
    raise DataError(
        f"{path} is neither a directory nor a zip or tar file; expected an image folder or an archive of one"
    )


class Folder:
    """A directory; links are followed, but never in a circle."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: Sequence[str] = sorted(_walk(path, "", frozenset({_identity(path.stat())})))

    def read(self, name: str, size: int | None = None) -> bytes:
        """See `Container`."""
        try:
            with (self.path / name).open("rb") as file:
                return file.read(-1 if size is None else size)
        except OSError as error:
            raise DataError(f"{self.path / name} cannot be read: {error.strerror}; fetch it again") from error


def _walk(folder: Path, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    with os.scandir(folder) as entries:
        listed = list(entries)
    for entry in listed:
        name = prefix + entry.name
        if not entry.is_dir():
            yield name
            continue
        if (identity := _identity(entry.stat())) not in above:
            yield name + "/"
            yield from _walk(Path(entry.path), name + "/", above | {identity})


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


class _File:
    """A file that any thread or forked process reads at any offset; it is closed when nobody needs it any more."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)

    def at(self, offset: int, size: int) -> bytes:
        data = os.pread(self._descriptor, size, offset)
        while len(data) < size and (more := os.pread(self._descriptor, size - len(data), offset + len(data))):
            data += more
        return data


@dataclass(frozen=True, slots=True)
class _Entry:
    offset: int
    packed: int
    size: int
    crc: int
    method: int
    is_encrypted: bool


class Zip:
    """A zip whose files are stored or deflated."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with zipfile.ZipFile(path) as archive:
            self._entries = {_forward(info.filename): _entry_of(info) for info in archive.infolist()}
        self.names: Sequence[str] = sorted(self._entries)
        self._file = _File(path)

    def read(self, name: str, size: int | None = None) -> bytes:
        """See `Container`."""
        entry = self._entries[name]
        try:
            packed = self._packed(entry)
            if entry.method == zipfile.ZIP_STORED:
                data = packed
            else:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, max(entry.size, 1))
            if len(data) != entry.size or zlib.crc32(data) != entry.crc:
                raise ValueError("it is damaged")
        except (OSError, ValueError, zlib.error) as error:
            raise DataError(f"{self.path}/{name} cannot be read: {error}; fetch it again") from error
        return data[:size]

    def _packed(self, entry: _Entry) -> bytes:
        if entry.is_encrypted:
            raise ValueError("it is encrypted")
        if entry.method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"it is compressed with method {entry.method}, expected stored or deflated")
        header = self._file.at(entry.offset, _LOCAL_HEADER)
        if header[:4] != b"PK\3\4" or len(header) < _LOCAL_HEADER:
            raise ValueError("its header is damaged")
        names = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        return self._file.at(entry.offset + _LOCAL_HEADER + names, entry.packed)


def _entry_of(info: zipfile.ZipInfo) -> _Entry:
    return _Entry(
        info.header_offset,
        info.compress_size,
        info.file_size,
        info.CRC,
        info.compress_type,
        bool(info.flag_bits & _ENCRYPTED),
    )


def _forward(name: str) -> str:
    """A name without a leading `./` or `/`, and with forward slashes: some Windows programs write backslashes."""
    name = name.replace("\\", "/")
    tidy = posixpath.normpath(name).lstrip("/")
    return tidy + "/" if name.endswith("/") else tidy


class Tar:
    """A tar that is not compressed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with tarfile.open(path, "r:") as archive:
                self._places = dict(_places(archive))
        except tarfile.ReadError as error:
            raise DataError(
                f"{path} is a compressed or damaged tar ({error}); unpack it, or decompress it to a plain .tar, whose "
                "files can be read in any order"
            ) from error
        self.names: Sequence[str] = sorted(self._places)
        self._file = _File(path)

    def read(self, name: str, size: int | None = None) -> bytes:
        """See `Container`."""
        offset, whole = self._places[name]
        wanted = whole if size is None else min(size, whole)
        try:
            data = self._file.at(offset, wanted)
        except OSError as error:
            raise DataError(f"{self.path}/{name} cannot be read: {error.strerror}; fetch it again") from error
        if len(data) != wanted:
            raise DataError(f"{self.path}/{name} cannot be read: the archive ends early; fetch it again")
        return data


def _places(archive: tarfile.TarFile) -> Iterator[tuple[str, tuple[int, int]]]:
    """Where each file's bytes lie: offset and size. A link lies where its target does."""
    found: dict[str, tuple[int, int]] = {}
    links: dict[str, str] = {}
    for member in archive:
        name = _forward(member.name)
        if member.isdir():
            yield name + "/", (0, 0)
        elif member.isreg():
            found[name] = (member.offset_data, member.size)
        elif member.islnk():
            links[name] = _forward(member.linkname)
        elif member.issym():
            links[name] = _forward(posixpath.join(posixpath.dirname(name), member.linkname))
    yield from found.items()
    for name, target in links.items():
        yield name, _followed(target, found, links)


def _followed(name: str, found: Mapping[str, tuple[int, int]], links: Mapping[str, str]) -> tuple[int, int]:
    for _ in range(len(links)):
        if name in found:
            return found[name]
        name = links.get(name, name)
    # A link to nowhere has no bytes, so reading it as a photo fails and names it.
    return found.get(name, (0, 0))
