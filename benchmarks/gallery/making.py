"""Turns an entry into evaluations, with the commands a user would type; keeps what exists already."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree
from typing import Any

from rich.console import Console

from benchmarks.gallery.entries import ENTRIES, FAMILIES, FIRST, Entry
from offramp.bundle import load_bundle

console = Console(stderr=True)
_CERTIFIED = ("--guarantee", "0.02")


@dataclass(frozen=True)
class Places:
    """Where data is read from and where results go."""

    data: Path
    runs: Path
    bundles: Path

    def bundle(self, entry: Entry) -> Path:
        """An entry's bundle, without a bottleneck."""
        return self.bundles / entry.name

    def run(self, entry: Entry) -> Path:
        """An entry's training run."""
        return self.runs / entry.name


def make(entry: Entry, places: Places) -> None:
    """Train, export and calibrate, unless that is done already; an interrupted training continues."""
    bundle = places.bundle(entry)
    data = str(places.data / entry.data)
    if not bundle.exists():
        for before in filter(None, (entry.start, entry.teacher)):
            make(_named(before), places)
        start = ("--start", str(places.runs / entry.start)) if entry.start else ()
        teacher = ("--teacher", str(places.runs / entry.teacher)) if entry.teacher else ()
        run = str(places.run(entry))
        recipe = entry.recipe or _attached(entry, places)
        _offramp("train", recipe, "--data", data, *entry.options, *start, *teacher, "--out", run, "--resume")
        how = ("--aggregate",) if entry.aggregates else () if entry.calibrate else ("--static",)
        _offramp("export", run, "--out", str(bundle), *how, *entry.export)
    if entry.calibrate and len(load_bundle(bundle).manifest.operating_points) == 1:
        _offramp("calibrate", str(bundle), "--data", data, *entry.calibrate)


def ship(entry: Entry, places: Places, models: Path) -> None:
    """Put the bundles that ship into `models`, unless they exist: an entry's own, and one with a bottleneck."""
    data, wide = str(places.data / entry.data), str(places.run(entry))
    if (entry.compress or entry.ships) and not (models / entry.name).exists():
        copytree(places.bundle(entry), models / entry.name)
    narrow = f"{entry.name}-narrow"
    bundle, run = models / narrow, places.runs / narrow
    if not entry.compress or bundle.exists():
        return
    _offramp("compress", wide, "--data", data, *entry.compress, "--out", str(run), "--resume")
    _offramp("export", str(run), "--out", str(bundle), "--aggregate")
    _offramp("calibrate", str(bundle), "--data", data, "--max-drop", entry.narrow_drop, *_CERTIFIED)


def evaluations(entry: Entry, places: Places) -> Sequence[dict[str, Any]]:
    """The report of each operating point that the table shows, on the test part."""
    bundle = places.bundle(entry)
    for rival in entry.rivals:
        make(_named(rival), places)
    reports = []
    for point in entry.points or (load_bundle(bundle).manifest.default_operating_point,):
        saved = places.runs / entry.name / f"evaluation-{point}.json"
        if not saved.exists() or saved.stat().st_mtime < (bundle / "bundle.json").stat().st_mtime:
            rivals = [part for name in entry.rivals for part in ("--rival", str(places.bundle(_named(name))))]
            data = str(places.data / entry.data)
            found = _offramp("evaluate", str(bundle), "--data", data, "--point", point, *rivals, "--json")
            saved.parent.mkdir(parents=True, exist_ok=True)
            saved.write_text(found, encoding="utf-8")
        reports.append(json.loads(saved.read_text(encoding="utf-8")))
    return reports


def _attached(entry: Entry, places: Places) -> str:
    """The recipe that `offramp attach` makes of an entry's model."""
    recipe = places.runs / f"{entry.name}-recipe"
    if not recipe.exists():
        _offramp("attach", str(places.data / entry.model), *entry.attach, "--out", str(recipe))
    return str(recipe)


def _named(name: str) -> Entry:
    return next(entry for entry in (*ENTRIES, *FAMILIES, *FIRST) if entry.name == name)


def _offramp(*arguments: str) -> str:
    console.print(f"$ offramp {shlex.join(arguments)}", style="bold", highlight=False)
    command = [sys.executable, "-m", "offramp.cli", *arguments]
    output = subprocess.PIPE if arguments[0] == "evaluate" else None
    return subprocess.run(command, check=True, stdout=output, text=True).stdout or ""
