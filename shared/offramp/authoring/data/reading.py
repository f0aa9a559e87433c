"""The one pass over all photos before they are used: it checks, fingerprints and caches them."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.authoring.data.cache import PixelCache
from offramp.authoring.data.decode import read_photo
from offramp.authoring.data.labelled import LabelledImages
from offramp.authoring.data.listing import Listing
from offramp.authoring.data.photos import PhotoFiles, PhotoPixels, Pixels
from offramp.bundle.manifest import Preprocessing
from offramp.errors import DataError
from offramp.logs import line

CACHE_MB = 1024
_IN_MEMORY = 256 << 20
_MOST_THREADS = 8
_log = logging.getLogger(__name__)


Advance = Callable[[int], None]


def read_listing(
    listing: Listing,
    preprocessing: Preprocessing,
    *,
    skip_unreadable: bool = False,
    cache_mb: int = CACHE_MB,
    advance: Advance = lambda _: None,
) -> LabelledImages:
    """Decode every photo once, so that none fails later; see `read_pixels`.

    Args:
        listing: the photos.
        preprocessing: the size and mode to decode them to.
        skip_unreadable: leave out photos that cannot be read, and name them in the log.
        cache_mb: most megabytes of decoded photos to keep.
        advance: called with the number of photos done since the last call.

    Raises:
        DataError: photos cannot be read; the message counts them and names the first. With `skip_unreadable`, only if
            none of them can.
    """
    file_bytes = np.zeros(len(listing), dtype=np.int64)

    def decode(number: int) -> NDArray[np.uint8]:
        found, file_bytes[number] = read_photo(listing.container, listing.names[number], preprocessing)
        return found

    digests = np.zeros(len(listing), dtype=np.uint64)
    pixels, kept = read_pixels(
        decode,
        len(listing),
        preprocessing.pixel_shape,
        skip_unreadable=skip_unreadable,
        cache_mb=cache_mb,
        advance=advance,
        digests=digests,
    )
    _warn_of_twins(listing, digests, kept)
    classes, labels = _present(listing, kept)
    sources = tuple(listing.sources[number] for number in kept)
    return LabelledImages(pixels, classes, labels, sources, file_bytes[kept])


def read_pixels(
    decode: Callable[[int], NDArray[np.uint8]],
    count: int,
    photo_shape: tuple[int, ...],
    *,
    skip_unreadable: bool = False,
    cache_mb: int = CACHE_MB,
    advance: Advance = lambda _: None,
    digests: NDArray[np.uint64] | None = None,
) -> tuple[Pixels, NDArray[np.int64]]:
    """Decode every photo once, and keep what may be kept.

    Up to 256 MB of pixels stay in memory. More are kept in a temporary file, up to `cache_mb`, and the photos beyond
    that are decoded again whenever they are needed.

    Args:
        decode: gives the pixels of the photo with this number; called from several threads at once.
        count: how many photos there are.
        photo_shape: H, W, C.
        skip_unreadable: as for `read_listing`, as are the others.
        cache_mb: most megabytes of decoded photos to keep.
        advance: called with the number of photos done since the last call.
        digests: (count,), filled with a digest of each photo's pixels.

    Returns:
        The pixels, and the numbers of the photos that could be read.
    """
    in_memory = count * prod(photo_shape) <= min(_IN_MEMORY, cache_mb << 20)
    array = np.empty((count if in_memory else 0, *photo_shape), dtype=np.uint8)
    cache, slots = PixelCache(prod(photo_shape), cache_mb << 20), np.full(count, -1, dtype=np.int64)
    digest, kept, errors = hashlib.sha256(), list[int](), list[DataError]()
    for number, found in enumerate(_decoded(decode, count)):
        advance(1)
        if isinstance(found, DataError):
            errors.append(found)
            continue
        digest.update(np.ascontiguousarray(found).data)
        if digests is not None:
            short = hashlib.blake2b(np.ascontiguousarray(found).data, digest_size=8)
            digests[number] = int.from_bytes(short.digest())
        if in_memory:
            array[len(kept)] = found
        else:
            slots[number] = cache.add(found)
        kept.append(number)
    _check(errors, count, skip=skip_unreadable)
    index = np.array(kept, dtype=np.int64)
    if in_memory:
        return array[: len(kept)], index
    return PhotoPixels(PhotoFiles(decode, photo_shape, cache, slots), index, digest), index


def _decoded(
    decode: Callable[[int], NDArray[np.uint8]], count: int
) -> Iterator[NDArray[np.uint8] | DataError]:
    """The pixels of every photo in order, or why it cannot be read; a few threads work ahead."""

    def read(number: int) -> NDArray[np.uint8] | DataError:
        try:
            return decode(number)
        except DataError as error:
            return error

    threads = min(_MOST_THREADS, os.cpu_count() or 1)
    waiting: deque[Future[NDArray[np.uint8] | DataError]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for number in range(count):
            waiting.append(pool.submit(read, number))
            if len(waiting) > 4 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _check(errors: Sequence[DataError], count: int, *, skip: bool) -> None:
    if errors and (not skip or len(errors) == count):
        raise DataError(
            f"{len(errors)} of {count} files cannot be read, the first: {errors[0]}; repair or remove them, or "
            "go on without them with --skip-unreadable"
        )
    for unreadable in errors:
        _log.warning(line("skipped", detail=str(unreadable)))


def _warn_of_twins(listing: Listing, digests: NDArray[np.uint64], kept: NDArray[np.int64]) -> None:
    """Say in the log if the same picture is in several classes, of which only one can be right."""
    if listing.classes.ndim > 1 or listing.classes.dtype.kind == "f":
        return
    order = kept[np.argsort(digests[kept], kind="stable")]
    first, second = order[:-1], order[1:]
    twins = (digests[first] == digests[second]) & (listing.classes[first] != listing.classes[second])
    if twins.any():
        one, other = (listing.sources[side[twins.argmax()]] for side in (first, second))
        _log.warning(
            line(
                "not_exclusive",
                photos=int(twins.sum()),
                first=one,
                also=other,
                detail="the same picture in two classes; remove one, or list both labels in a labels.csv and train "
                "with --task multi_label",
            )
        )


def _present(listing: Listing, kept: NDArray[np.int64]) -> tuple[NDArray[Any], tuple[str, ...] | None]:
    """The classes of the photos that were kept, and the labels; a label without any photo is left out."""
    classes = listing.classes[kept]
    if listing.labels is None or classes.ndim > 1:
        return classes, listing.labels
    present = np.unique(classes)
    if len(present) == len(listing.labels):
        return classes, listing.labels
    for number in sorted(set(range(len(listing.labels))) - set(present.tolist())):
        _log.warning(line("skipped", folder=listing.labels[number], detail="no photo of it can be read"))
    return np.searchsorted(present, classes), tuple(listing.labels[number] for number in present)
