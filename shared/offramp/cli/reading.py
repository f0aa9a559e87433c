"""Reads photos for a command: says what was found, and shows the progress."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from offramp.authoring.data import LabelledImages, Listing, Part, load_images, load_unlabelled
from offramp.authoring.data.reading import CACHE_MB
from offramp.bundle import Preprocessing
from offramp.bundle.task import Kind
from offramp.cli.progress import console, progress


@dataclass(frozen=True)
class Reading:
    """How a command reads photos.

    skip_unreadable: leave out what cannot be read. cache_mb: most megabytes of decoded photos to keep on the disk.
    kind: of the task they are for.
    """

    skip_unreadable: bool = False
    cache_mb: int = CACHE_MB
    kind: Kind = "single_label"

    def part(self, path: Path, part: Part, preprocessing: Preprocessing) -> LabelledImages:
        """One part of a data set.

        Raises:
            DataError: it cannot be read; see `load_images`.
        """
        with ExitStack() as stack:
            return load_images(
                path,
                part,
                preprocessing,
                kind=self.kind,
                skip_unreadable=self.skip_unreadable,
                cache_mb=self.cache_mb,
                found=_shown(stack),
            )

    def unlabelled(self, path: Path, preprocessing: Preprocessing) -> LabelledImages:
        """Every photo of a folder or an archive.

        Raises:
            DataError: they cannot be read; see `load_unlabelled`.
        """
        with ExitStack() as stack:
            return load_unlabelled(
                path,
                preprocessing,
                skip_unreadable=self.skip_unreadable,
                cache_mb=self.cache_mb,
                found=_shown(stack),
            )


def _shown(stack: ExitStack) -> Callable[[Listing], Callable[[int], None]]:
    def found(listing: Listing) -> Callable[[int], None]:
        console.print(listing.summary, highlight=False, markup=False, soft_wrap=True)
        return stack.enter_context(progress("reading photos", len(listing)))

    return found
