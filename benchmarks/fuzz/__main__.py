"""Fuzzes all that reads strangers' bytes, guided by coverage (atheris): `python -m benchmarks.fuzz --seconds 60`.

A finding is whatever a stranger should not be able to cause: an error without a name, an answer with status 500, a
crash, an answer that breaks its schema, or more than 100 ms of processor time for one input. Each kind is kept as a
file in tests/corpus/, which `tests/test_corpus.py` replays.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field
from rich.console import Console
from rich.table import Table

from benchmarks.fuzz.targets import TARGETS
from offramp.cli.progress import progress
from offramp.command import Command, run_command
from offramp.errors import ConfigError

_COVERAGE = re.compile(r"cov: (\d+)")
_SPARE_S = 120  # to start, and for one input that hangs


@dataclass(frozen=True)
class Fuzzed:
    """What became of one target; coverage in edges of the control flow."""

    name: str
    inputs: int
    covered_first: int
    covered: int
    slowest_ms: float
    found: Mapping[str, str]


class Fuzz(Command):
    """Try to break whatever reads strangers' bytes; needs atheris, of the extra dev.

    Example: python -m benchmarks.fuzz --seconds 60 --only images,heads
    """

    seconds: float = Field(default=60, gt=0, description="how long to try each target")
    only: str | None = Field(default=None, description=f"only some of {', '.join(TARGETS)}: a,b")
    corpus: Path | None = Field(
        default=None, description="folder that keeps inputs which reached new code, for the next time"
    )
    found: Path = Field(default=Path("tests/corpus"), description="folder that keeps what fails")

    def execute(self) -> None:
        """Fuzz one target after the other; the exit status is 2 if anything was found."""
        chosen = [name for name in TARGETS if not self.only or name in self.only.split(",")]
        if not chosen:
            raise ConfigError(f"--only is '{self.only}'; choose from {', '.join(TARGETS)}")
        results = []
        with tempfile.TemporaryDirectory() as scratch, progress("targets", len(chosen)) as advance:
            for name in chosen:
                results.append(self._fuzz(name, (self.corpus or Path(scratch)) / name))
                advance(1)
        _show(results)
        if count := sum(len(each.found) for each in results):
            raise ConfigError(f"{count} findings, kept in {self.found}; mend each, and leave its file there")

    def _fuzz(self, name: str, corpus: Path) -> Fuzzed:
        corpus.mkdir(parents=True, exist_ok=True)
        kept = self.found / name
        for file in kept.glob("*"):
            shutil.copy(file, corpus)
        kept.mkdir(parents=True, exist_ok=True)
        before = set(kept.iterdir())
        with tempfile.NamedTemporaryFile() as stats:
            said = _run([name, str(self.seconds), str(corpus), str(kept), stats.name], self.seconds)
            figures = json.loads(Path(stats.name).read_text(encoding="utf-8") or "{}")
        died = {
            file.name: _last_words(said)
            for file in set(kept.iterdir()) - before
            if file.name.startswith("died-")
        }
        covered = [int(text) for text in _COVERAGE.findall(said)] or [0]
        if not figures and not died:
            raise ConfigError(f"the target {name} did not run: {_last_words(said)}")
        return Fuzzed(
            name=name,
            inputs=figures.get("inputs", 0),
            covered_first=covered[0],
            covered=covered[-1],
            slowest_ms=figures.get("slowest_ms", 0.0),
            found={**figures.get("found", {}), **died},
        )


def _run(arguments: Sequence[str], seconds: float) -> str:
    command = [sys.executable, "-m", "benchmarks.fuzz.child", *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=seconds + _SPARE_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ConfigError(f"the target {arguments[0]} did not end: {error}") from error
    return done.stdout + done.stderr


def _last_words(said: str) -> str:
    lines = [line for line in said.splitlines() if line.strip()]
    return next(
        (line for line in lines if "ERROR" in line or "Error" in line), lines[-1] if lines else "nothing"
    )


def _show(results: Sequence[Fuzzed]) -> None:
    table = Table(
        "target", "inputs", "coverage", "new", "slowest, ms", "findings", title="Fuzzed, by coverage"
    )
    for each in results:
        table.add_row(
            each.name,
            f"{each.inputs:,}",
            str(each.covered),
            str(each.covered - each.covered_first),
            f"{each.slowest_ms:.0f}",
            str(len(each.found)),
        )
    table.add_row("all", f"{sum(each.inputs for each in results):,}")
    console = Console()
    console.print(table)
    for each in results:
        for name, text in each.found.items():
            console.print(f"{each.name}/{name}: {text}", markup=False, highlight=False)


if __name__ == "__main__":
    run_command(Fuzz, sys.argv[1:], program="python -m benchmarks.fuzz")
