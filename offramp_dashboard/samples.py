"""Sample photos to try a node with, from one folder per class on the dashboard's machine."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from offramp.engine.images import PHOTO_SUFFIXES

_MAX_BYTES = 100_000
_MAX_CLASSES = 20


@dataclass(frozen=True)
class Sample:
    """A photo and its class."""

    label: str
    image: bytes


def drawn_samples(folder: Path, labels: Sequence[str]) -> list[Sample]:
    """One random photo of each of the bundle's classes that has a folder."""
    found = []
    for label in labels[:_MAX_CLASSES]:
        own = folder / label
        # A label comes from a node; only a plain name may become part of a path.
        if Path(label).name != label or not own.is_dir():
            continue
        files = [file for file in own.iterdir() if file.suffix.lower() in PHOTO_SUFFIXES]
        if files and (file := random.choice(files)).stat().st_size <= _MAX_BYTES:
            found.append(Sample(label, file.read_bytes()))
    return found
