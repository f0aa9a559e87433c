"""Two data sets with a `labels.csv`: groceries with all their names, and digits turned by a known angle."""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from offramp.authoring.data import Part
from offramp.authoring.data.idx import load_idx
from offramp.bundle import Preprocessing

LARGEST_ANGLE = 45
_DIGITS: Mapping[Part, int] = {"train": 7_000, "test": 2_000}
_PLAIN = Preprocessing(height=28, width=28, mode="L", mean=(0.0,), std=(1.0,))
# `train-Golden-Delicious_001.jpg` in a folder `Apple`: the part, the kind, a number.
_FINE = re.compile(r"[a-z]+-(.+)_\d+")
_CLASS_OF = {"Mushroom": "Brown-Cap-Mushroom"}


def write_groceries(source: Path, out: Path) -> None:
    """Copy the Grocery Store photos, each labelled with its class and, where it has another name, its kind.

    Args:
        source: the zip with train/<class>/ and test/<class>/.
        out: the new zip.
    """
    with zipfile.ZipFile(source) as photos, zipfile.ZipFile(out, "w") as made:
        rows: dict[str, list[tuple[str, str]]] = {}
        for name in (PurePosixPath(name) for name in photos.namelist() if name.endswith(".jpg")):
            part, file = _place_of(name)
            made.writestr(f"{part}/{file}", photos.read(str(name)))
            rows.setdefault(part, []).append((file, _names_of(name)))
        for part, of_part in rows.items():
            made.writestr(f"{part}/labels.csv", _table(("file", "labels"), of_part))


def write_turned_digits(mnist: Path, out: Path) -> None:
    """Turn MNIST's digits by up to 45 degrees, evenly distributed; positive angles are anticlockwise.

    Both parts are drawn from MNIST's training part, whose writers are not those of its test part: a slant is an angle
    too, and a guarantee holds for photos of the same kind.

    Args:
        mnist: directory of its IDX files.
        out: the new zip.
    """
    with zipfile.ZipFile(out, "w") as made:
        turned = _turned(mnist, sum(_DIGITS.values()))
        for part, count in _DIGITS.items():
            rows = []
            for number, (angle, photo) in enumerate(islice(turned, count)):
                made.writestr(f"{part}/digits/{number:05}.png", photo)
                rows.append((f"digits/{number:05}.png", f"{angle:.3f}"))
            made.writestr(f"{part}/labels.csv", _table(("file", "value"), rows))


def _place_of(photo: PurePosixPath) -> tuple[str, str]:
    """Part and path of a photo; the names of the files tell the official validation part, which lies in train/."""
    part, label, name = photo.parts
    return "validation" if name.startswith("val-") else part, f"{label}/{name}"


def _names_of(photo: PurePosixPath) -> str:
    _, label, _ = photo.parts
    found = _FINE.fullmatch(photo.stem)
    assert found is not None, f"{photo} is not named like a photo of this data set"
    return ";".join(dict.fromkeys((_CLASS_OF.get(label, label), found[1])))


def _turned(mnist: Path, count: int) -> Iterator[tuple[float, bytes]]:
    """Angles and photos, in random order."""
    pixels, generator = load_idx(mnist, "train", _PLAIN).pixels, np.random.default_rng(0)
    chosen = pixels[generator.permutation(len(pixels))[:count]]
    for image, angle in zip(chosen, generator.uniform(-LARGEST_ANGLE, LARGEST_ANGLE, count), strict=True):
        file = io.BytesIO()
        Image.fromarray(image.squeeze(2)).rotate(angle, Image.Resampling.BILINEAR).save(file, "PNG")
        yield angle, file.getvalue()


def _table(columns: tuple[str, str], rows: Sequence[tuple[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()
