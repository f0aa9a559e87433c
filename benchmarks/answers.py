"""Check that the shipped bundles still give the same answers: labels, exits and confidences, bit for bit.

    python -m benchmarks.answers --record before.json --checkout OLD --python OLD/.venv/bin/python --cifar10 ZIP
    python -m benchmarks.answers --compare before.json --cifar10 ZIP

It sends test photos over HTTP, one by one, to real nodes: an edge alone, and an edge with a cloud. Confidences only
match between runs on the same kind of processor with the same ONNX Runtime, so record and compare on one machine.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from pydantic import Field

from benchmarks.checkouts import HERE, Checkout, end_with_status
from benchmarks.shipped import WAYS, add_data_options, shipped_photos
from offramp.cli.progress import progress
from offramp.errors import ConfigError
from offramp.record import Record

_SHOWN = 3  # differing answers to print for each bundle and its nodes


class Said(Record):
    """The answer to one photo."""

    label: str
    exit_number: int
    exit_tier: str
    confidence: float
    degraded: bool


class Recording(Record):
    """All answers, by bundle and nodes (such as `b-lenet-fashion, edge alone`), then by the photo's file name."""

    answers: dict[str, dict[str, Said]] = Field(min_length=1)


@dataclass(frozen=True)
class Agreement:
    """How many photos got the same label, exit and so on before and now, and which photos differ in any of them."""

    photos: int
    different: tuple[str, ...]
    label: int
    exit: int
    confidence: int
    degraded: int


def main() -> None:
    """Record answers, compare them with a recording, or both."""
    parser = ArgumentParser(
        prog="python -m benchmarks.answers", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--record", type=Path, metavar="FILE", help="write the answers to this file")
    parser.add_argument(
        "--compare", type=Path, metavar="FILE", help="exit with 1 if the answers differ from these"
    )
    parser.add_argument(
        "--checkout", type=Path, default=HERE, help="checkout whose nodes to ask; this one unless given"
    )
    parser.add_argument(
        "--python", type=Path, default=Checkout.python, help="interpreter that has that checkout installed"
    )
    add_data_options(parser)
    options = parser.parse_args()
    if not (options.record or options.compare):
        parser.error("give --record FILE, --compare FILE, or both")
    end_with_status(parser, lambda: _run(options))


def _run(options: Namespace) -> bool:
    before = read_recording(options.compare) if options.compare else None
    now = record(Checkout(options.checkout, options.python), options)
    if options.record:
        options.record.write_text(now.model_dump_json(indent=1), encoding="utf-8")
    if before is None:
        print(f"recorded {sum(len(each) for each in now.answers.values())} answers in {options.record}")
        return True
    found = compare(before, now)
    for name, each in found.items():
        print(f"{name}: {_line(each, now.answers[name])}")
        for photo in each.different[:_SHOWN]:
            print(f"  {photo} before: {before.answers[name][photo]}")
            print(f"  {photo} now:    {now.answers[name][photo]}")
    return not any(each.different for each in found.values())


def record(checkout: Checkout, options: Namespace) -> Recording:
    """Ask a checkout's nodes about all test photos.

    Raises:
        ConfigError: the interpreter runs other code, a node does not start or does not answer, or there are no photos.
    """
    checkout.check()
    answers = {}
    with shipped_photos(options) as folders:
        for bundle, folder in folders.items():
            for way, with_cloud in WAYS.items():
                name = f"{bundle}, {way}"
                with (
                    checkout.serving(bundle, with_cloud=with_cloud) as url,
                    progress(name, options.photos) as step,
                ):
                    answers[name] = ask(url, folder, step)
    return Recording(answers=answers)


def ask(url: str, folder: Path, advance: Callable[[int], None] = lambda _: None) -> dict[str, Said]:
    """Send the photos below a folder one by one; return the answer to each, by its path in the folder.

    Raises:
        ConfigError: there are no photos, or one was not answered.
    """
    found = {}
    with httpx.Client(timeout=60, trust_env=False) as client:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            response = client.post(url, content=path.read_bytes())
            if response.status_code != 200:
                raise ConfigError(
                    f"{path.name} got status {response.status_code} from {url}: {response.text[:300]}"
                )
            found[str(path.relative_to(folder))] = _said(response.json())
            advance(1)
    if not found:
        raise ConfigError(f"{folder} holds no photos")
    return found


def _said(answer: Mapping[str, Any]) -> Said:
    return Said(
        label=answer["label"],
        exit_number=answer["exit"]["number"],
        exit_tier=answer["exit"]["tier"],
        confidence=answer["confidence"],
        degraded=answer["degraded"],
    )


def read_recording(file: Path) -> Recording:
    """Read what `--record` wrote.

    Raises:
        ConfigError: the file does not exist, or is not a recording.
    """
    try:
        return Recording.model_validate(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{file} is not a recording: {str(error).splitlines()[0]}; make one with --record {file}"
        ) from error


def compare(before: Recording, now: Recording) -> dict[str, Agreement]:
    """Count equal answers, by bundle and nodes.

    Raises:
        ConfigError: the recordings answer different photos.
    """
    asked = [{name: list(each) for name, each in recording.answers.items()} for recording in (before, now)]
    if asked[0] != asked[1]:
        raise ConfigError(
            "the recordings answer different photos; give the same data and --photos as for the recording"
        )
    return {name: _agreement(before.answers[name], answers) for name, answers in now.answers.items()}


def _agreement(before: Mapping[str, Said], now: Mapping[str, Said]) -> Agreement:
    pairs = [(before[photo], said) for photo, said in now.items()]
    return Agreement(
        photos=len(pairs),
        different=tuple(photo for photo, said in now.items() if before[photo] != said),
        label=sum(old.label == new.label for old, new in pairs),
        exit=sum((old.exit_number, old.exit_tier) == (new.exit_number, new.exit_tier) for old, new in pairs),
        confidence=sum(old.confidence == new.confidence for old, new in pairs),
        degraded=sum(old.degraded == new.degraded for old, new in pairs),
    )


def _line(each: Agreement, now: Mapping[str, Said]) -> str:
    offloaded = sum(said.exit_tier != "edge" for said in now.values())
    equal = f"{each.label} labels, {each.exit} exits, {each.confidence} confidences, {each.degraded} degraded flags"
    return f"{each.photos} photos, {offloaded} offloaded; equal: {equal}"


if __name__ == "__main__":
    main()
