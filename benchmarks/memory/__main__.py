"""Peak memory of `train` and `evaluate` with photos of 224 pixels, more of them than memory could hold.

    python -m benchmarks.memory --photos 50000

It makes a folder that lists a few photos many times (hard links, so it takes little disk), and runs the commands as a
person would. Memory is that of the command and all its worker processes: their proportional set size (PSS), which
counts a page that several of them share only once, sampled ten times a second.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from pydantic import Field
from rich.console import Console
from rich.table import Table

from offramp.command import Command, run_command
from offramp.errors import ConfigError

_CLASSES = 10
_MADE = 40
_SAMPLE_S = 0.1


class Memory(Command):
    """Measure the peak memory of `train` and `evaluate`.

    Example: python -m benchmarks.memory --photos 5000
    """

    photos: int = Field(default=50_000, ge=100, description="photos that each part lists")
    source: Path | None = Field(default=None, description="folder of photos to repeat (default: made ones)")
    recipe: str = Field(
        default="benchmarks.memory.recipe:SMALL",
        description="recipe to train, with pixels as large as it takes",
    )
    only: Literal["train", "evaluate"] | None = Field(default=None, description="show only this command")
    cache_mb: int | None = Field(default=None, ge=0, description="for both commands (default: theirs)")
    workers: int | None = Field(default=None, ge=0, description="for `train` (default: its own)")
    train: str = Field(default="", description="further options of `train`, such as '--frozen-blocks 1'")
    seconds: int | None = Field(
        default=None,
        ge=1,
        description="with --only train: stop after so long, since a large network has its peak in its first batches",
    )
    as_json: bool = Field(default=False, alias="json", description="print one JSON object")

    def execute(self) -> None:
        """Make the photos, run the commands, and show their peaks."""
        if self.seconds is not None and self.only != "train":
            raise ConfigError(
                "a training that was stopped leaves nothing to evaluate; also give --only train"
            )
        with tempfile.TemporaryDirectory(prefix="offramp-memory-") as directory:
            found = self._measured(Path(directory))
        if self.as_json:
            print(json.dumps(found))
            return
        table = Table(title=f"{self.photos:,} photos listed in each part")
        for column in ("command", "peak MB", "seconds"):
            table.add_column(column, justify="left" if column == "command" else "right")
        for name, (peak_mb, took_s) in found.items():
            table.add_row(name, f"{peak_mb:,.0f}", f"{took_s:.0f}")
        Console().print(table)

    def _measured(self, directory: Path) -> dict[str, tuple[float, float]]:
        """Peak megabytes and seconds of each command."""
        data, run, bundle = (directory / name for name in ("data", "run", "bundle"))
        _list_photos(data, self.photos, self._source(directory))
        cache = () if self.cache_mb is None else ("--cache-mb", str(self.cache_mb))
        workers = () if self.workers is None else ("--workers", str(self.workers))
        options = ("--data", data, "--out", run, "--epochs", "1", *cache, *workers, *shlex.split(self.train))
        found = {"train": _peak("train", self.recipe, *options, seconds=self.seconds)}
        if self.only != "train":
            _peak("export", run, "--out", bundle)
            found["evaluate"] = _peak("evaluate", bundle, "--data", data, "--json", *cache)
        return {name: peak for name, peak in found.items() if self.only in (None, name)}

    def _source(self, directory: Path) -> list[Path]:
        if self.source is None:
            return _made(directory / "source")
        photos = sorted(
            file for file in self.source.rglob("*") if file.suffix.lower() in {".jpg", ".jpeg", ".png"}
        )
        if not photos:
            raise ConfigError(f"{self.source} has no JPEG or PNG files; give a folder that has some")
        return photos


def _made(folder: Path) -> list[Path]:
    """Smooth noise, of the size that shops and search engines show photos in."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    files = [folder / f"{number}.jpg" for number in range(_MADE)]
    for file in files:
        rough = Image.fromarray(generator.integers(0, 256, (30, 40, 3), dtype=np.uint8))
        rough.resize((400, 300), Image.Resampling.BICUBIC).save(file, quality=85)
    return files


def _list_photos(data: Path, count: int, source: list[Path]) -> None:
    """Write train/ and test/ with links to the photos in turn; the two parts differ in their order."""
    for part, first in (("train", 0), ("test", 1)):
        for label in range(_CLASSES):
            (data / part / f"class-{label}").mkdir(parents=True)
        for number in range(count):
            file = source[(number // _CLASSES + first) % len(source)]
            link = data / part / f"class-{number % _CLASSES}" / f"{number:06d}{file.suffix}"
            try:
                os.link(file, link)
            except OSError:
                link.symlink_to(file.resolve())


def _peak(*arguments: str | Path, seconds: int | None = None) -> tuple[float, float]:
    """Run an `offramp` command, at most for so long; its peak memory in MB, with its workers, and its seconds."""
    began, peak, stopped = time.monotonic(), 0, False
    command = [sys.executable, "-m", "offramp.cli", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            if seconds is not None and time.monotonic() - began > seconds:
                process.terminate()
                seconds, stopped = None, True
            peak = max(peak, sum(map(_pss_bytes, _family(process.pid))))
            time.sleep(_SAMPLE_S)
    if process.returncode and not stopped:
        raise ConfigError(
            f"offramp {arguments[0]} ended with status {process.returncode}; its message is above"
        )
    return peak / 1e6, time.monotonic() - began


def _family(pid: int) -> Iterator[int]:
    """A process and all that it started."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found = children.read_text().split()
        except OSError:
            continue  # it has ended
        for child in found:
            yield from _family(int(child))


def _pss_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0  # it has ended
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


if __name__ == "__main__":
    run_command(Memory, sys.argv[1:], program="python -m benchmarks.memory")
