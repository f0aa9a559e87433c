"""Decoded photos in a temporary file, up to a budget.

In a file, because pages that the system keeps of it can be dropped when memory runs short. There is no eviction:
training goes through all photos again and again, and for such a scan no choice is better than a fixed subset.
"""

from __future__ import annotations

import logging
import os
import tempfile
import weakref

import numpy as np
from numpy.typing import NDArray

from offramp.logs import line

_log = logging.getLogger(__name__)


class PixelCache:
    """The first photos that fit; it may be read from several threads and from forked processes."""

    def __init__(self, photo_bytes: int, budget_bytes: int) -> None:
        """Make an empty cache.

        Args:
            photo_bytes: size of one decoded photo.
            budget_bytes: most that all of them take.
        """
        self._photo_bytes = photo_bytes
        self._most = budget_bytes // photo_bytes
        self._count = 0
        self._descriptor: int | None = None

    def add(self, pixels: NDArray[np.uint8]) -> int:
        """Keep a photo, and return its slot; -1 if the budget or the disk is used up."""
        if self._count >= self._most:
            return -1
        try:
            if self._descriptor is None:
                with tempfile.TemporaryFile(prefix="offramp-photos-") as file:
                    self._descriptor = os.dup(file.fileno())
                weakref.finalize(self, os.close, self._descriptor)
            written = os.pwrite(self._descriptor, pixels.tobytes(), self._count * self._photo_bytes)
            if written != self._photo_bytes:
                raise OSError("no space left on device")
        except OSError as error:
            self._most = self._count
            _log.warning(
                line("cache_full", directory=tempfile.gettempdir(), photos=self._count, detail=str(error))
            )
            return -1
        self._count += 1
        return self._count - 1

    def read(self, slot: int, into: NDArray[np.uint8]) -> None:
        """Read a photo into an array of its shape, which must be contiguous."""
        assert self._descriptor is not None, "a slot was given out"
        count = os.preadv(self._descriptor, [into.data.cast("B")], slot * self._photo_bytes)
        assert count == self._photo_bytes, "the file holds every photo whose slot was given out"
