"""Arranges the Grocery Store photos as three parts whose classes have the same names: `python -m benchmarks.grocery`.

The photos that we trained on lie in train/ and test/ of one zip. Its train/ holds the official training and validation
parts, told apart by the names of the files, and one class is called Mushroom in test/ and Brown-Cap-Mushroom in train/.
"""

from __future__ import annotations

import sys
import zipfile
from collections import Counter
from pathlib import Path, PurePosixPath

from pydantic import Field
from pydantic_settings import CliPositionalArg

from offramp.cli.progress import console, progress
from offramp.command import Command, run_command
from offramp.errors import DataError

_CLASS_OF = {"Mushroom": "Brown-Cap-Mushroom"}
_PHOTO = ".jpg"


class Grocery(Command):
    """Write a zip with train/, validation/ and test/ from one with train/ and test/.

    Example: python -m benchmarks.grocery grocery.zip --out data/grocery.zip
    """

    source: CliPositionalArg[Path] = Field(description="the zip with train/<class>/ and test/<class>/")
    out: Path = Field(description="the new zip; it must not exist yet")

    def execute(self) -> None:
        """Copy every photo to its place, and say how many there are."""
        if self.out.exists():
            raise DataError(f"{self.out} exists already; remove it, or choose another file with --out")
        found = Counter[str]()
        with zipfile.ZipFile(self.source) as source, zipfile.ZipFile(self.out, "x") as out:
            photos = [name for name in source.namelist() if name.endswith(_PHOTO)]
            with progress("photos", len(photos)) as advance:
                for name in photos:
                    place = _place(PurePosixPath(name))
                    out.writestr(zipfile.ZipInfo(str(place)), source.read(name))
                    found[place.parts[0]] += 1
                    advance(1)
        console.print(
            ", ".join(f"{part}/ {count:,}" for part, count in sorted(found.items())), highlight=False
        )


def _place(photo: PurePosixPath) -> PurePosixPath:
    part, label, name = photo.parts
    if name.startswith("val-"):
        part = "validation"
    return PurePosixPath(part, _CLASS_OF.get(label, label), name)


if __name__ == "__main__":
    run_command(Grocery, sys.argv[1:], program="python -m benchmarks.grocery")
