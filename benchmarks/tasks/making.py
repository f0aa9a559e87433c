"""Trains, certifies, evaluates and serves one task, with the commands a user would type."""

from __future__ import annotations

import csv
import json
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.tasks.data import write_groceries, write_turned_digits
from offramp.bundle import load_bundle
from offramp.cli.predict import in_words
from offramp.cli.processes import node_process
from offramp.cli.progress import console, progress

Answer = Mapping[str, Any]


@dataclass(frozen=True)
class Entry:
    """A task: what makes its data, and of which source; its recipe; ε of its guarantee."""

    name: str
    what: str
    source: str
    write: Callable[[Path, Path], None]
    recipe: str
    epsilon: float


ENTRIES = (
    Entry(
        "grocery-labels",
        "groceries: the class and the kind of each, 97 labels",
        "grocery.zip",
        write_groceries,
        "benchmarks.tasks.recipes:GROCERIES",
        0.05,
    ),
    Entry(
        "turned-digits",
        "handwritten digits: the angle by which each was turned",
        "mnist",
        write_turned_digits,
        "benchmarks.tasks.recipes:TURNED_DIGITS",
        0.05,
    ),
)


@dataclass(frozen=True)
class Found:
    """Figures of one task.

    report: of `offramp evaluate`. certificate: of the served operating point. disagreeing: share of the test photos
    whose answer differs from the full network's. served: answers that two nodes gave to the test photos over HTTP.
    equal: how many of these are what `evaluate` found.
    """

    report: Mapping[str, Any]
    certificate: Mapping[str, Any]
    disagreeing: float
    served: Sequence[Answer]
    equal: int


def make(entry: Entry, data: Path, out: Path) -> Found:
    """Do everything for one task, in a folder of its own; what exists already is kept.

    Args:
        entry: the task.
        data: directory of the sources.
        out: where data, run and bundle go.
    """
    folder = out / entry.name
    folder.mkdir(parents=True, exist_ok=True)
    photos, run, bundle = folder / "photos.zip", folder / "run", folder / entry.name
    if not photos.exists():
        entry.write(data / entry.source, photos)
    if not bundle.exists():
        _offramp("train", entry.recipe, "--data", str(photos), "--out", str(run), "--resume")
        _offramp("export", str(run), "--out", str(bundle), "--fit-on", str(photos))
    _offramp("calibrate", str(bundle), "--data", str(photos), "--guarantee", str(entry.epsilon))
    report = json.loads(_evaluated(bundle, photos, folder / "here.csv"))
    _evaluated(bundle, photos, folder / "full.csv", "--point", "full")
    here, full = _rows(folder / "here.csv"), _rows(folder / "full.csv")
    served = _served(bundle, photos, [row["image"] for row in here])
    return Found(
        report,
        load_bundle(bundle).manifest.operating_point.model_dump()["certificate"],
        _disagreeing(bundle, here, full),
        served,
        sum(_is_same(answer, row) for answer, row in zip(served, here, strict=True)),
    )


def _evaluated(bundle: Path, photos: Path, csv_file: Path, *point: str) -> str:
    return _offramp(
        "evaluate", str(bundle), "--data", str(photos), "--json", "--predictions", str(csv_file), *point
    )


def _rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def _disagreeing(bundle: Path, here: Sequence[Mapping[str, str]], full: Sequence[Mapping[str, str]]) -> float:
    quantity = load_bundle(bundle).manifest.task.quantity
    apart = [
        abs(float(one["label"]) - float(other["label"])) > quantity.tolerance
        if quantity
        else one["label"] != other["label"]
        for one, other in zip(here, full, strict=True)
    ]
    return sum(apart) / len(apart)


def _is_same(answer: Answer, row: Mapping[str, str]) -> bool:
    said = in_words(answer) if "value" in answer else ";".join(sorted(in_words(answer).split(";")))
    return (said, str(answer["exit"]["number"]), f"{answer['confidence']:.9g}") == (
        row["label"],
        row["exit"],
        row["confidence"],
    )


def _served(bundle: Path, photos: Path, names: Sequence[str]) -> list[Answer]:
    """What two nodes answer to the test photos over HTTP."""
    answers = []
    with (
        node_process("cloud_node", [str(bundle), "--port", "0"], name="cloud") as cloud,
        node_process(
            "edge_node", [str(bundle), "--port", "0", "--upstream", cloud.address], name="edge"
        ) as edge,
        httpx.Client(base_url=f"http://{edge.address}", timeout=30, trust_env=False) as client,
        zipfile.ZipFile(photos) as files,
        progress("photos served", len(names)) as advance,
    ):
        for name in names:
            answers.append(
                client.post("/v1/predict", content=files.read(f"test/{name}")).raise_for_status().json()
            )
            advance(1)
    return answers


def _offramp(*arguments: str) -> str:
    console.print(f"$ offramp {shlex.join(arguments)}", style="bold", highlight=False, soft_wrap=True)
    command = [sys.executable, "-m", "offramp.cli", *arguments]
    output = subprocess.PIPE if arguments[0] == "evaluate" else None
    return subprocess.run(command, check=True, stdout=output, text=True).stdout or ""
