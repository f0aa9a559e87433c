"""Photos without labels: enough to distil a trained backbone into early exits, and to test a guarantee."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from offramp.authoring.data.container import open_container
from offramp.authoring.data.labelled import LabelledImages
from offramp.authoring.data.listing import Listing, check_formats
from offramp.authoring.data.reading import CACHE_MB, read_listing
from offramp.authoring.data.suffixes import PHOTO_SUFFIXES, counted, sort_files
from offramp.bundle.manifest import Preprocessing
from offramp.errors import DataError


def load_unlabelled(
    path: Path,
    preprocessing: Preprocessing,
    *,
    skip_unreadable: bool = False,
    cache_mb: int = CACHE_MB,
    found: Callable[[Listing], Callable[[int], None]] = lambda _: lambda _: None,
) -> LabelledImages:
    """Read every photo of a folder, a zip or a tar, whatever its folders are called; all get the meaningless class 0.

    Args:
        path: of the photos.
        preprocessing: of the network.
        skip_unreadable: leave out what cannot be read, and say so in the log.
        cache_mb: most megabytes of decoded photos to keep; see `read_listing`.
        found: as for `load_images`.

    Raises:
        DataError: there are no photos, or some of them cannot be read.
    """
    listing = list_unlabelled(path, skip_unreadable=skip_unreadable)
    return read_listing(
        listing, preprocessing, skip_unreadable=skip_unreadable, cache_mb=cache_mb, advance=found(listing)
    )


def list_unlabelled(path: Path, *, skip_unreadable: bool = False) -> Listing:
    """Find every photo of a folder, a zip or a tar, whatever its folders are called.

    Raises:
        DataError: there are no photos, or files that cannot be read, which `skip_unreadable` leaves out.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist; expected a folder of photos, or a zip or tar of one")
    container = open_container(path)
    files = sort_files(container)
    check_formats(path, {path.name: files.unreadable} if files.unreadable else {}, skip=skip_unreadable)
    if not files.photos:
        raise DataError(
            f"{path} has no photos ({', '.join(sorted(PHOTO_SUFFIXES))}); give a directory that holds some"
        )
    # By parts of the path, so that a folder's photos stay together.
    names = tuple(sorted(files.photos, key=lambda name: name.split("/")))
    summary = f"{path.name}: {len(names):,} photos"
    summary += f"; other files: {counted(files.others)}" if files.others else ""
    return Listing(container, names, np.zeros(len(names), dtype=np.int64), None, names, summary)
