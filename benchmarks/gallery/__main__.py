"""Train, calibrate and evaluate the recipes, and print the results next to the published figures.

    python -m benchmarks.gallery --data data

Training takes hours on two cores, and B-ResNet-56 and its teacher need a GPU; an interrupted run continues where it
stopped.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from benchmarks.gallery.entries import ENTRIES, FAMILIES, Entry
from benchmarks.gallery.making import Places, evaluations, make, ship
from benchmarks.gallery.page import Sheet, families_sheet, networks_sheet, page_of
from offramp.authoring.training.run import training_s
from offramp.command import Command, run_command
from offramp.errors import ConfigError


class Gallery(Command):
    """Train, calibrate and evaluate what is missing, then show everything.

    Example: python -m benchmarks.gallery --data data --only b-lenet-mnist
    """

    data: Path = Field(
        description="directory with mnist/, cifar10.zip, grocery.zip (see benchmarks.grocery) and "
        "efficientnet-lite0.pth"
    )
    runs: Path = Field(default=Path("runs"), description="where training runs and evaluations go")
    bundles: Path = Field(
        default=Path("runs/bundles"), description="where bundles go; existing ones are used as they are"
    )
    only: str | None = Field(default=None, description="only these entries: name,name,…")
    models: Path | None = Field(
        default=None, description="also make the bundles that ship, with and without a bottleneck, here"
    )
    page: Path | None = Field(default=None, description="also write the tables to this Markdown file")

    def execute(self) -> None:
        """Make what is missing, then print the page."""
        places = Places(self.data, self.runs, self.bundles)
        chosen = _chosen(self.only)
        try:
            for entry in chosen:
                make(entry, places)
                if self.models:
                    ship(entry, places, self.models)
            sheets = [sheet for sheet in (_networks(chosen, places), _families(chosen, places)) if sheet.rows]
        except subprocess.CalledProcessError as error:
            raise ConfigError(
                f"`offramp {error.cmd[3]} …` exited with {error.returncode}; its output is above, "
                "run this again to continue"
            ) from error
        left_out = [entry.name for entry in (*ENTRIES, *FAMILIES) if entry not in chosen]
        text = page_of(sheets, left_out=left_out)
        print(text)
        if self.page:
            self.page.write_text(text, encoding="utf-8")


def _networks(chosen: Sequence[Entry], places: Places) -> Sheet:
    return networks_sheet([(entry, evaluations(entry, places)) for entry in chosen if entry in ENTRIES])


def _families(chosen: Sequence[Entry], places: Places) -> Sheet:
    of_one = [entry for entry in chosen if entry in FAMILIES]
    return families_sheet(
        [(entry, evaluations(entry, places)[-1], training_s(places.run(entry))) for entry in of_one]
    )


def _chosen(only: str | None) -> Sequence[Entry]:
    entries = (*ENTRIES, *FAMILIES)
    if only is None:
        return entries
    names = only.split(",")
    unknown = sorted(set(names) - {entry.name for entry in entries})
    if unknown:
        raise ConfigError(
            f"no entry '{unknown[0]}'; choose from {', '.join(entry.name for entry in entries)}"
        )
    return [entry for entry in entries if entry.name in names]


if __name__ == "__main__":
    run_command(Gallery, sys.argv[1:], program="python -m benchmarks.gallery")
