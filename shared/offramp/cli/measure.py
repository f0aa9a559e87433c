"""`profile`: what each block takes on each runtime of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast, get_args

import typer
from rich.console import Console
from rich.table import Table

from offramp.bundle import load_bundle
from offramp.cli.errors import told_in_one_line
from offramp.cli.progress import progress
from offramp.errors import ConfigError
from offramp.evaluation.profile import BlockTime, Profile
from offramp.evaluation.profile import profile as measure
from offramp.runtime import Runtime, runtimes_at_hand

RuntimeOption = Annotated[str, typer.Option(help=f"What runs the blocks: {', '.join(get_args(Runtime))}.")]


@told_in_one_line
def profile(
    bundle: Annotated[Path, typer.Argument(help="Bundle directory.")],
    runtime: Annotated[
        list[str] | None,
        typer.Option(
            help=f"One of {', '.join(get_args(Runtime))}; may be given several times. All installed ones unless given."
        ),
    ] = None,
    batch: Annotated[str, typer.Option(help="Samples in one call, with commas between.")] = "1",
    threads: Annotated[str, typer.Option(help="Threads that share one call, with commas between.")] = "1",
    rounds: Annotated[int, typer.Option(min=1, help="Calls behind each median.")] = 200,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, which calibrate --profile reads.")
    ] = False,
) -> None:
    """Measure every block on every runtime at hand: median milliseconds per sample, its EEC included.

    Example: offramp profile models/b-alexnet-cifar10 --batch 1,16 --threads 1,2
    """
    loaded = load_bundle(bundle)
    runtimes = [runtime_named(name) for name in runtime] if runtime else runtimes_at_hand()
    batches, counts = _numbers("--batch", batch, at_most=4096), _numbers("--threads", threads, at_most=256)
    with progress("combinations", len(runtimes) * len(batches) * len(counts)) as advance:
        found = measure(loaded, runtimes, batches=batches, threads=counts, rounds=rounds, advance=advance)
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
    else:
        Console().print(profile_table(found))


def runtime_named(name: str) -> Runtime:
    """The runtime of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in get_args(Runtime):
        raise ConfigError(f"runtime is '{name}'; expected {', '.join(get_args(Runtime))}")
    return cast("Runtime", name)


def profile_table(found: Profile) -> Table:
    """Blocks and batch sizes down, runtimes and threads across; the best of each row is bold and starred."""
    table = Table(
        title=f"{found.bundle}: median ms per sample",
        caption=f"{found.cpu}, {found.cores} cores, {found.rounds} calls each; * the fastest of its row",
    )
    ways = list(dict.fromkeys(_way(time) for time in found.blocks))
    for column in ("block", "batch", *(f"{name}\n{_counted(threads)}" for name, threads in ways)):
        table.add_column(column, justify="right")
    rows: dict[tuple[int, int], dict[tuple[str, int], float]] = {}
    for time in sorted(found.blocks, key=lambda time: (time.block, time.batch)):
        rows.setdefault((time.block, time.batch), {})[_way(time)] = time.ms
    for (block, batch), ms_by_way in rows.items():
        best = min(ms_by_way.values())
        table.add_row(str(block), str(batch), *(_cell(ms_by_way.get(way), best) for way in ways))
    return table


def _way(time: BlockTime) -> tuple[str, int]:
    return time.runtime, time.threads


def _counted(threads: int) -> str:
    return f"{threads} thread{'' if threads == 1 else 's'}"


def _cell(ms: float | None, best: float) -> str:
    if ms is None:
        return "-"
    return f"[bold]{ms:.4f} *[/]" if ms == best else f"{ms:.4f}  "


def _numbers(option: str, text: str, *, at_most: int) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() and 1 <= int(word) <= at_most for word in words):
        raise ConfigError(
            f"{option} is '{text}'; write numbers from 1 to {at_most} with commas between, as in 1,4"
        )
    return list(dict.fromkeys(int(word) for word in words))
