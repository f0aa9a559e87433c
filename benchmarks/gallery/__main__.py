"""Train, calibrate and evaluate the recipes, and print them beside the published figures.

    python -m benchmarks.gallery --data data

Trainings take hours on two cores; an interrupted gallery goes on where it stopped.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from offramp.cli.errors import told_in_one_line

from benchmarks.gallery.entries import ENTRIES, FAMILIES, Entry
from benchmarks.gallery.making import Places, evaluations, make, ship
from benchmarks.gallery.page import Sheet, families_sheet, networks_sheet, page_of
from offramp.authoring.training.run import training_s
from offramp.errors import ConfigError


@told_in_one_line
def main(
    data: Annotated[Path, typer.Option(help="Directory that holds mnist/ and cifar10.zip.")],
    runs: Annotated[Path, typer.Option(help="Where training runs and evaluations go.")] = Path("runs"),
    bundles: Annotated[
        Path, typer.Option(help="Where bundles go; those there are taken as they are.")
    ] = Path("runs/bundles"),
    only: Annotated[str | None, typer.Option(help="Only these entries: name,name,…")] = None,
    models: Annotated[
        Path | None,
        typer.Option(help="Also make the bundles that ship, with a bottleneck, in this directory."),
    ] = None,
    page: Annotated[Path | None, typer.Option(help="Also write the tables to this Markdown file.")] = None,
) -> None:
    """Hang the gallery: train, calibrate and evaluate what is missing, then show all.

    Example: python -m benchmarks.gallery --data data --only b-lenet-mnist
    """
    places = Places(data, runs, bundles)
    chosen = _chosen(only)
    try:
        for entry in chosen:
            make(entry, places)
            if models:
                ship(entry, places, models)
        sheets = [sheet for sheet in (_networks(chosen, places), _families(chosen, places)) if sheet.rows]
    except subprocess.CalledProcessError as error:
        raise ConfigError(
            f"`offramp {error.cmd[3]} …` ended with {error.returncode}; what it said is above, run this again to go on"
        ) from error
    text = page_of(sheets, left_out=[entry.name for entry in (*ENTRIES, *FAMILIES) if entry not in chosen])
    print(text)
    if page:
        page.write_text(text, encoding="utf-8")


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
        raise ConfigError(f"no entry '{unknown[0]}'; there are {', '.join(entry.name for entry in entries)}")
    return [entry for entry in entries if entry.name in names]


if __name__ == "__main__":
    typer.run(main)
