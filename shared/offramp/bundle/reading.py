"""Reads the files of a bundle: regular ones, of bounded size, and never through a link."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from offramp.errors import BundleError

MAX_MANIFEST_BYTES = 16 << 20
# The most that ONNX can have in one file.
MAX_GRAPH_BYTES = 2 << 30


@contextmanager
def opened(directory: Path) -> Iterator[int]:
    """A descriptor of the directory, from which all of its files are read, whatever happens to its name meanwhile.

    Raises:
        OSError: it cannot be opened.
    """
    found = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield found
    finally:
        os.close(found)


def read_file(directory: int, path: Path, *, most_bytes: int) -> bytes:
    """The contents of a file.

    Args:
        directory: descriptor of the directory that it is in.
        path: its name, and how to call it in errors.
        most_bytes: how large it may be.

    Raises:
        OSError: it cannot be read.
        BundleError: it is not a regular file, or larger than that.
    """
    # Without O_NONBLOCK, opening a FIFO waits until somebody writes to it.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        found = os.open(path.name, flags, dir_fd=directory)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise _irregular(path, "a symbolic link") from error
        if error.errno == errno.ENXIO:
            raise _irregular(path, "a socket or a device") from error
        raise
    try:
        status = os.fstat(found)
        if not stat.S_ISREG(status.st_mode):
            raise _irregular(path, _KINDS.get(stat.S_IFMT(status.st_mode), "something else"))
        if status.st_size > most_bytes:
            raise BundleError(f"{path} has {status.st_size} bytes, expected at most {most_bytes}")
        with os.fdopen(found, "rb", closefd=False) as file:
            return file.read(most_bytes)
    finally:
        os.close(found)


def parsed(data: bytes) -> Any:
    """What JSON says, if it says each thing once.

    Raises:
        ValueError: it is not JSON, an object has two values for one key, or a number is not one.
        RecursionError: it is nested too deeply.
    """
    return json.loads(data, object_pairs_hook=_once, parse_constant=_no_number)


_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def _irregular(path: Path, what: str) -> BundleError:
    return BundleError(f"{path} is {what}, expected a regular file; copy the whole bundle again")


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"'{next(key for key in keys if keys.count(key) > 1)}' is in it twice")
    return found


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is not a number")
