"""`profile`: what each block takes on each runtime of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast, get_args

import typer
from rich.console import Console
from rich.table import Table

from offramp.authoring.evaluation.profile import BlockTime, Profile
from offramp.authoring.evaluation.profile import profile as measure
from offramp.bundle import load_bundle
from offramp.cli.errors import told_in_one_line
from offramp.cli.progress import progress
from offramp.engine.runtime import Runtime, runtimes_at_hand
from offramp.errors import ConfigError

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
    """A row for each batch size, runtime and number of threads; the fastest of each block and batch is starred."""
    table = Table(
        title=f"{found.bundle}: median ms per sample",
        caption=f"{found.cpu}, {found.cores} cores, {found.rounds} calls each; *: fastest at that batch",
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


def _numbers(option: str, text: str, *, at_most: int) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() and 1 <= int(word) <= at_most for word in words):
        raise ConfigError(
            f"{option} is '{text}'; write numbers from 1 to {at_most} with commas between, as in 1,4"
        )
    return list(dict.fromkeys(int(word) for word in words))
