"""What files say, read again when one of them changes; if it is not fit to be used then, what was read before stays."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from offramp.errors import ConfigError
from offramp.logs import line

_log = logging.getLogger("offramp.serving.access")

_LOOK_EVERY_S = 1.0
_MAX_BYTES = 10_000_000

T = TypeVar("T")


class Followed(Generic[T]):
    """What `read` makes of files, as they are now."""

    def __init__(self, files: Sequence[Path], read: Callable[[], T], *, what: str) -> None:
        """Read the files; `what`: they are, for the log, such as keys.

        Raises:
            ConfigError: `read` raises it.
        """
        self._files = files
        self._read = read
        self._what = what
        self._versions = self._found()
        self._current = read()
        self._look_at = time.monotonic() + _LOOK_EVERY_S

    @property
    def current(self) -> T:
        """What they say; looks at the files at most once a second."""
        if (now := time.monotonic()) >= self._look_at:
            self._look_at = now + _LOOK_EVERY_S
            if (found := self._found()) != self._versions:
                self._versions = found
                self._follow()
        return self._current

    def _follow(self) -> None:
        try:
            self._current = self._read()
        except ConfigError as error:
            _log.warning(line(f"{self._what}_not_replaced", detail=error))
        else:
            _log.info(line(f"{self._what}_replaced", files=",".join(map(str, self._files))))

    def _found(self) -> list[tuple[int, int, int] | None]:
        return [_version(file) for file in self._files]


def read_file(path: Path) -> bytes:
    """The contents of a file.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            return file.read(_MAX_BYTES)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; give another file") from error


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a FIFO must not hold the start up


def _version(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
