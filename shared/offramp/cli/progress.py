"""Progress bars and messages of the commands; they go to standard error, so that pipes stay clean."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from offramp.logs import start_logging

console = Console(stderr=True)


def log_unless_terminal() -> None:
    """Where no bar can be drawn, let log lines show the progress of a long command."""
    if not Console(stderr=True).is_terminal:
        start_logging()


@contextmanager
def progress(text: str, total: int, *, in_bytes: bool = False) -> Iterator[Callable[[int], None]]:
    """Show a progress bar; yields the function that advances it."""
    count = DownloadColumn() if in_bytes else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), count, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(text, total=total)
        yield lambda count: bar.advance(task, count)
