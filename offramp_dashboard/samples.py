"""Sample photos to try a node with, from one folder per class on the dashboard's machine."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from offramp.engine.images import PHOTO_SUFFIXES
from offramp_dashboard.seen import thumbnail

_MOST_CLASSES = 20
_SIDE = 128  # pixels of a thumbnail; the photo itself may have megabytes


@dataclass(frozen=True)
class Sample:
    """A photo and its class. thumbnail: None if this machine cannot decode it; a node may."""

    label: str
    file: Path
    thumbnail: bytes | None


@dataclass(frozen=True)
class Drawn:
    """Random samples, and how many of the bundle's classes have any."""

    samples: Sequence[Sample]
    num_classes: int


def drawn_samples(folder: Path, labels: Sequence[str]) -> Drawn:
    """One random photo of each of up to 20 random classes of the bundle that have a folder, in the bundle's order."""
    files: dict[str, list[Path]] = {}
    for label in labels:
        own = folder / label
        # A label comes from a node; only a plain name may become part of a path.
        if Path(label).name != label or not own.is_dir():
            continue
        if found := [file for file in own.iterdir() if file.suffix.lower() in PHOTO_SUFFIXES]:
            files[label] = found
    chosen = set(random.sample(sorted(files), min(len(files), _MOST_CLASSES)))
    samples = [_sample(label, random.choice(files[label])) for label in files if label in chosen]
    return Drawn(samples, len(files))


def _sample(label: str, file: Path) -> Sample:
    try:
        return Sample(label, file, thumbnail(file.read_bytes(), _SIDE))
    except OSError:
        return Sample(label, file, None)
