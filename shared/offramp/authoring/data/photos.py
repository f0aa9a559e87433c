"""The pixels of photos in files, as an array that decodes what it is asked for.

Shapes: N photos, H x W pixels, C channels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from offramp.authoring.data.cache import PixelCache

_BATCH_BYTES = 8 << 20


class Pixels(Protocol):
    """Pixels, uint8 (N, H, W, C), in memory or not: a NumPy array is one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """N, H, W, C."""
        ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...

    def __getitem__(self, index: Any, /) -> Any:
        """One photo (H, W, C) by its number, or several (n, H, W, C) by a slice or an array of numbers."""
        ...

    def take(self, index: Any, /, axis: int) -> Any:
        """The photos with these numbers; those that are not in memory stay where they are. `axis` is 0."""
        ...


@dataclass(frozen=True, eq=False)
class PhotoFiles:
    """Photos that are decoded when they are asked for, some of them also kept in a cache.

    decode: gives the pixels (H, W, C) of the photo with this number; safe to call from several threads and forked
    processes. photo_shape: H, W, C. slots: where each photo lies in the cache; -1 if it does not.
    """

    decode: Callable[[int], NDArray[np.uint8]]
    photo_shape: tuple[int, ...]
    cache: PixelCache
    slots: NDArray[np.int64]

    def read(self, number: int, into: NDArray[np.uint8]) -> None:
        """Read the pixels of one photo into an array (H, W, C).

        Raises:
            DataError: its file has become unreadable.
        """
        if (slot := int(self.slots[number])) >= 0:
            self.cache.read(slot, into)
        else:
            into[...] = self.decode(number)


class PhotoPixels:
    """Some of these photos, in some order; see `Pixels`. Safe to use from several threads and forked processes."""

    def __init__(self, files: PhotoFiles, index: NDArray[np.int64], digest: Any = None) -> None:
        """Choose photos.

        Args:
            files: the photos.
            index: numbers of those that are chosen.
            digest: SHA-256 of their pixels, if it is known.
        """
        self._files = files
        self._index = index
        self._digest = digest

    @property
    def shape(self) -> tuple[int, ...]:
        """N, H, W, C."""
        return (len(self._index), *self._files.photo_shape)

    @property
    def is_cached(self) -> bool:
        """Whether all of them are in the cache, so that none needs to be decoded again."""
        return bool((self._files.slots[self._index] >= 0).all())

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self[number] for number in range(len(self)))

    @overload
    def __getitem__(self, index: int | np.integer[Any]) -> NDArray[np.uint8]: ...
    @overload
    def __getitem__(self, index: slice | NDArray[np.int64]) -> NDArray[np.uint8]: ...
    def __getitem__(self, index: int | np.integer[Any] | slice | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Read one photo or several.

        Raises:
            DataError: a file has become unreadable.
        """
        wanted = self._index[index]
        numbers = np.atleast_1d(wanted)
        pixels = np.empty((len(numbers), *self.shape[1:]), dtype=np.uint8)
        for number, into in zip(numbers, pixels, strict=True):
            self._files.read(int(number), into)
        return pixels[0] if np.ndim(wanted) == 0 else pixels

    def take(self, index: NDArray[np.int64], /, axis: int = 0) -> PhotoPixels:
        """The photos with these numbers; nothing is decoded."""
        assert axis == 0, "photos are taken whole"
        return PhotoPixels(self._files, self._index[index])

    def digest(self) -> Any:
        """SHA-256 of all pixels, to be continued; found by reading them, unless it is known already."""
        return digest_of(self) if self._digest is None else self._digest.copy()


def batch_size_for(shape: tuple[int, ...], *, most: int = 1000) -> int:
    """How many images of a shape (N, H, W, C) to take at once, so that their pixels take 8 MB or less, if possible."""
    return max(1, min(most, _BATCH_BYTES // int(np.prod(shape[1:]))))


def batches(pixels: Pixels, size: int | None = None) -> Iterator[NDArray[np.uint8]]:
    """All images in their order, in batches (n, H, W, C); while one is used, the next is already being read."""
    size = size or batch_size_for(pixels.shape)
    starts = range(0, len(pixels), size)
    if isinstance(pixels, np.ndarray):
        yield from (pixels[start : start + size] for start in starts)
        return
    with ThreadPoolExecutor(1) as reader:
        following = None
        for start in starts:
            found = following or reader.submit(pixels.__getitem__, slice(start, start + size))
            following = reader.submit(pixels.__getitem__, slice(start + size, start + 2 * size))
            yield found.result()


def digest_of(pixels: Pixels) -> Any:
    """SHA-256 of the pixels of all images, in their order; more can be added to it."""
    digest = hashlib.sha256()
    for batch in batches(pixels):
        digest.update(np.ascontiguousarray(batch).data)
    return digest
