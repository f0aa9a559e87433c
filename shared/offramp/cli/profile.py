"""`profile`: measures each block on each runtime of this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field
from rich.console import Console
from rich.table import Table

from offramp.bundle import load_bundle
from offramp.cli.options import BundleArgument
from offramp.cli.progress import progress
from offramp.command import Command
from offramp.engine.runtime import Runtime, runtimes_at_hand

if TYPE_CHECKING:
    from offramp.authoring.evaluation.profile import BlockTime, Profile

_MOST_SAMPLES = 4096
_MOST_THREADS = 256


def _numbers(text: str, *, at_most: int) -> Sequence[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() and 1 <= int(word) <= at_most for word in words):
        raise ValueError(f"write comma-separated numbers from 1 to {at_most}, such as 1,4")
    return list(dict.fromkeys(int(word) for word in words))


def _batches(text: str) -> str:
    _numbers(text, at_most=_MOST_SAMPLES)
    return text


def _threads(text: str) -> str:
    _numbers(text, at_most=_MOST_THREADS)
    return text


class ProfileBlocks(Command):
    """Measure every block, with its EEC, on every installed runtime: median milliseconds per sample.

    Example: offramp profile models/b-alexnet-cifar10 --batch 1,16 --threads 1,2
    """

    bundle: BundleArgument
    runtime: list[Runtime] = Field(
        default=[], description="runtime to measure; may be given several times (default: all installed)"
    )
    batch: Annotated[str, AfterValidator(_batches)] = Field(
        default="1", description="samples in one call, comma-separated"
    )
    threads: Annotated[str, AfterValidator(_threads)] = Field(
        default="1", description="threads that share one call, comma-separated"
    )
    rounds: int = Field(default=200, ge=1, description="calls per median")
    as_json: bool = Field(
        default=False, alias="json", description="print JSON, which calibrate --profile reads"
    )

    def execute(self) -> None:
        """Measure, and show the medians."""
        from offramp.authoring.evaluation.profile import profile

        loaded = load_bundle(self.bundle)
        runtimes = self.runtime or runtimes_at_hand()
        batches = _numbers(self.batch, at_most=_MOST_SAMPLES)
        counts = _numbers(self.threads, at_most=_MOST_THREADS)
        with progress("combinations", len(runtimes) * len(batches) * len(counts)) as advance:
            found = profile(
                loaded, runtimes, batches=batches, threads=counts, rounds=self.rounds, advance=advance
            )
        if self.as_json:
            print(found.model_dump_json(indent=2))  # noqa: T201 - the output of the command
        else:
            Console().print(profile_table(found))


def profile_table(found: Profile) -> Table:
    """A row for each batch size, runtime and number of threads; a star marks the fastest for each block and batch."""
    table = Table(
        title=f"{found.bundle}: median ms per sample",
        caption=f"{found.cpu}, {found.cores} cores, {found.rounds} calls each; *: fastest at that batch size",
    )
    numbers = sorted({time.block for time in found.blocks})
    for column in ("batch", "runtime", "threads", *(f"block {number}" for number in numbers), "all"):
        table.add_column(column, justify="left" if column == "runtime" else "right", no_wrap=True)
    for batch in sorted({time.batch for time in found.blocks}):
        _add_section(table, [time for time in found.blocks if time.batch == batch])
    return table


def _add_section(table: Table, times: list[BlockTime]) -> None:
    ms_by_way: dict[tuple[str, int], list[float]] = {}
    for time in sorted(times, key=lambda time: time.block):
        ms_by_way.setdefault((time.runtime, time.threads), []).append(time.ms)
    rows = {way: [*of_blocks, sum(of_blocks)] for way, of_blocks in ms_by_way.items()}
    best = [min(column) for column in zip(*rows.values(), strict=True)]
    for (runtime, threads), row in rows.items():
        cells = (_cell(ms, ms == least) for ms, least in zip(row, best, strict=True))
        table.add_row(str(times[0].batch), runtime, str(threads), *cells)
    table.add_section()


def _cell(ms: float, is_best: bool) -> str:
    return f"[bold]{ms:.4g} *[/]" if is_best else f"{ms:.4g}  "
