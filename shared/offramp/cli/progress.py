"""Progress and messages of the commands; they go to standard error, so that pipes stay clean."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

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

_EVERY_S = 30.0


def log_unless_terminal() -> None:
    """Where no bar can be drawn, let log lines show the progress of a long command."""
    if not Console(stderr=True).is_terminal:
        start_logging()


@contextmanager
def progress(text: str, total: int, *, in_bytes: bool = False) -> Iterator[Callable[[int], None]]:
    """Show a progress bar, or a line now and then without a terminal; yields the function that advances it."""
    if not console.is_terminal:
        yield _Lines(text, total).advance
        return
    count = DownloadColumn() if in_bytes else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), count, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(text, total=total)
        yield lambda count: bar.advance(task, count)


def warn(text: str) -> None:
    """Print a warning on one line."""
    console.print(f"[bold yellow]warning:[/] {text}", highlight=False, soft_wrap=True)


class _Lines:
    """Progress as lines, one every half minute, for logs and other files."""

    def __init__(self, text: str, total: int) -> None:
        self._text = text
        self._total = total
        self._done = 0
        self._began = self._said = monotonic()

    def advance(self, count: int) -> None:
        self._done += count
        now = monotonic()
        if now - self._said < _EVERY_S or self._done >= self._total:
            return
        self._said = now
        left_min = (now - self._began) * (self._total - self._done) / (60 * max(self._done, 1))
        console.print(
            f"{self._text}: {self._done:,} of {self._total:,}, {left_min:.1f} minutes left",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
