"""Rows of one shape and type in a `.npy` file that may be larger than memory.

Rows are read with `pread`, not through a memory map, whose pages would count as this process's memory.
"""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LARGEST = np.finfo(np.float16).max


class FeatureFile:
    """A complete file, open for reading.

    rows: how many. shape: of one row.
    """

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            OSError: it cannot be read. ValueError: it is damaged.
        """
        header = np.load(path, mmap_mode="r")
        self.rows: int = header.shape[0]
        self.shape: tuple[int, ...] = header.shape[1:]
        self._dtype: np.dtype[Any] = header.dtype
        self._start: int = header.offset
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)

    def read(self, index: Sequence[int]) -> NDArray[Any]:
        """The rows at these positions, in that order."""
        found = np.empty((len(index), *self.shape), self._dtype)
        size = math.prod(self.shape) * self._dtype.itemsize
        for place, row in enumerate(index):
            read = os.pread(self._descriptor, size, self._start + row * size)
            found[place] = np.frombuffer(read, self._dtype).reshape(self.shape)
        return found


class FeatureWriter:
    """A file being written, row by row in any order."""

    def __init__(self, path: Path, rows: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._dtype = dtype
        self._size = math.prod(shape) * dtype.itemsize
        self._file = path.open("wb", buffering=0)
        header = {"descr": dtype.str, "fortran_order": False, "shape": (rows, *shape)}
        np.lib.format.write_array_header_1_0(self._file, header)
        self._start = self._file.tell()
        self._file.truncate(self._start + rows * self._size)

    def write(self, values: NDArray[np.float32], row: int) -> None:
        """Write rows from position `row` on; float16 clips at ±65504."""
        fitting = values.clip(-_LARGEST, _LARGEST) if self._dtype.itemsize == 2 else values
        left, place = fitting.astype(self._dtype).tobytes(), self._start + row * self._size
        while left:
            done = os.pwrite(self._file.fileno(), left, place)
            left, place = left[done:], place + done

    def close(self) -> None:
        """Make sure that everything is on the disk."""
        os.fsync(self._file.fileno())
        self._file.close()


@contextmanager
def writing(path: Path, rows: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Iterator[FeatureWriter]:
    """Write a file that has its name only once it is complete; until then it ends in `.part`."""
    half = path.with_name(f"{path.name}.part")
    writer = FeatureWriter(half, rows, shape, dtype)
    try:
        yield writer
    finally:
        writer.close()
    half.rename(path)
