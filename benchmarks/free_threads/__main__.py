"""Threads of one process against processes, on Python with its lock and on free-threaded Python.

    python -m benchmarks.free_threads models/b-alexnet-cifar10-int8 --photos data/cifar10.zip --python gil/bin/python \
        --free nogil/bin/python

Each Python needs numpy, onnxruntime and pillow. A loop decodes photos with Pillow and runs blocks until an exit is
confident enough; there is no server: not all that a node needs exists for free-threaded Python. The threads of a
process share its blocks. The ways take turns, and need an otherwise idle machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from subprocess import PIPE
from typing import Any

from pydantic import Field, PrivateAttr
from rich.console import Console

from benchmarks.free_threads import loop
from benchmarks.gallery.page import Sheet
from benchmarks.serving.page import machine
from benchmarks.serving.photos import folder_of
from offramp.bundle import load_bundle
from offramp.cli.options import BundleArgument
from offramp.cli.progress import progress
from offramp.command import Command, run_command
from offramp.errors import ConfigError

_COLUMNS = ("Python", "processes", "threads in each", "answers a second", "of processes with the lock", "MB")
_SHAPES = ((1, 1), (2, 1), (1, 2))
_LOCKED, _FREE = "with its lock", "free-threaded"
_BASE = (_LOCKED, 2, 1)
_Way = tuple[str, int, int]


class FreeThreads(Command):
    """Answer photos in threads and in processes, on two Pythons, in turn.

    Example: python -m benchmarks.free_threads models/b-alexnet-cifar10-int8 --photos data/cifar10.zip \
        --python gil/bin/python --free nogil/bin/python
    """

    bundle: BundleArgument
    photos: Path = Field(description="folder of photos of the bundle's size, or a zip with a folder test/")
    python: Path = Field(description="Python with its lock")
    free: Path = Field(description="the same release of Python, built with --disable-gil")
    rounds: int = Field(default=7, ge=1, description="turns of each way")
    seconds: int = Field(default=3, ge=1, description="length of each turn")
    page: Path | None = Field(default=None, description="also write this Markdown file")

    _versions: set[str] = PrivateAttr(default_factory=set)

    def execute(self) -> None:
        """Let every way answer in turn, and print the table."""
        pythons = {_LOCKED: self.python, _FREE: self.free}
        for path in pythons.values():
            if not path.exists():
                raise ConfigError(f"{path} does not exist; give a Python with numpy, onnxruntime and pillow")
        ways = [(name, *shape) for name in pythons for shape in _SHAPES]
        found: dict[_Way, list[tuple[float, float]]] = {way: [] for way in ways}
        with folder_of(self.photos) as folder, progress("turns", self.rounds * len(ways)) as advance:
            spec = self._spec(folder)
            for number in range(self.rounds):
                for way in ways[:: -1 if number % 2 else 1]:
                    found[way].append(self._turn(pythons[way[0]], way, spec))
                    advance(1)
        title = f"{self.bundle.name}, {self.rounds} turns of {self.seconds} s"
        sheet = Sheet(title, _COLUMNS, [_row(way, turns, found[_BASE]) for way, turns in found.items()])
        text = (
            "# Free-threaded Python\n\nMade by `python -m benchmarks.free_threads`: a loop of decoding with Pillow and "
            f"blocks, without a server, on Python {min(self._versions)}.\n\n{machine()}\n\n{sheet.as_markdown()}"
        )
        Console().print(text, highlight=False, markup=False, soft_wrap=True)
        if self.page:
            self.page.write_text(text, encoding="utf-8")

    def _spec(self, folder: Path) -> dict[str, Any]:
        bundle = load_bundle(self.bundle)
        manifest = bundle.manifest
        return {
            "blocks": [str((bundle.directory / block.file).absolute()) for block in manifest.blocks],
            "thetas": [*manifest.operating_point.thetas, 0.0],
            "photos": [str(path.absolute()) for path in sorted(folder.rglob("*.jpg"))],
            "mode": manifest.preprocessing.mode,
            "seconds": self.seconds,
        }

    def _turn(self, python: Path, way: _Way, spec: Mapping[str, Any]) -> tuple[float, float]:
        """Answers a second, and megabytes."""
        _, processes, threads = way
        command = [str(python), loop.__file__]
        with ExitStack() as stack:
            workers = [
                stack.enter_context(subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True))
                for _ in range(processes)
            ]
            for worker in workers:
                _say(worker, json.dumps({**spec, "threads": threads}))
            for worker in workers:
                self._check(way[0], json.loads(_heard(worker)))
            for worker in workers:
                _say(worker, "")
            found = [json.loads(_heard(worker)) for worker in workers]
            for worker in workers:
                _say(worker, "")
        return sum(each["answers"] for each in found) / self.seconds, sum(each["kb"] for each in found) / 1000

    def _check(self, name: str, said: Mapping[str, Any]) -> None:
        """Refuse a Python that is not what it was given as: a module may bring the lock back."""
        if said["is_locked"] != (name == _LOCKED):
            raise ConfigError(f"the Python given as '{name}' is the other kind once its modules are loaded")
        self._versions.add(said["version"])
        if len(self._versions) > 1:
            raise ConfigError(
                f"Pythons {' and '.join(sorted(self._versions))} do not compare; give one release"
            )


def _say(worker: subprocess.Popen[str], line: str) -> None:
    assert worker.stdin
    worker.stdin.write(f"{line}\n")
    worker.stdin.flush()


def _heard(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout
    line = worker.stdout.readline()
    if not line:
        raise ConfigError("one of the Pythons ended; what it said is above")
    return line


def _row(
    way: _Way, turns: Sequence[tuple[float, float]], base: Sequence[tuple[float, float]]
) -> tuple[str, ...]:
    name, processes, threads = way
    relative = median(a[0] / b[0] for a, b in zip(turns, base, strict=True))
    per_second, megabytes = (median(values) for values in zip(*turns, strict=True))
    return name, str(processes), str(threads), f"{per_second:.0f}", f"{relative:.2f}", f"{megabytes:.0f}"


if __name__ == "__main__":
    run_command(FreeThreads, sys.argv[1:], program="python -m benchmarks.free_threads")
