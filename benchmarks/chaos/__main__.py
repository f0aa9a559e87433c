"""Attacks nodes and breaks what is between them, and writes what came of it: `python -m benchmarks.chaos`."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field
from rich.console import Console

from benchmarks.chaos.page import Found, page_of, plot_of
from offramp.cli.progress import progress
from offramp.command import Command, run_command
from offramp.errors import ConfigError
from tests.chaos.scenarios import SCENARIOS, run
from tests.chaos.stage import Check, Outcome, Scenario


class Chaos(Command):
    """Attack nodes and break what is between them; needs Linux, wrk and the extras train, report and dev.

    It takes some half an hour on a machine that does nothing else.

    Example: python -m benchmarks.chaos --only flat-webp,ipv6 --short
    """

    only: str | None = Field(default=None, description="only scenarios of these names or rows, a,b")
    short: bool = Field(default=False, description="a few seconds each, as the tests do")
    page: Path | None = Field(
        default=None, description="also write this Markdown file, and the picture next to it"
    )

    def execute(self) -> None:
        """Run the scenarios one after the other, show each as it ends, then the page."""
        console = Console()
        # One event loop for all of them: gRPC takes no second one.
        found = asyncio.run(_all(_chosen(self.only), console, short=self.short))
        text = page_of(found, short=self.short)
        console.print(text, markup=False, highlight=False, soft_wrap=True)
        if self.page:
            self.page.write_text(text, encoding="utf-8")
            plot_of(found, self.page.with_suffix(".svg"))


def _chosen(only: str | None) -> Sequence[Scenario]:
    wanted = set(only.split(",")) if only else set()
    chosen = [each for each in SCENARIOS if not wanted or {each.name, str(each.row)} & wanted]
    if not chosen:
        raise ConfigError(f"--only is '{only}'; choose from {', '.join(each.name for each in SCENARIOS)}")
    return chosen


async def _all(chosen: Sequence[Scenario], console: Console, *, short: bool) -> list[Found]:
    found = []
    with progress("scenarios", len(chosen)) as advance:
        for scenario in chosen:
            begun = time.monotonic()
            outcome = await _tried(scenario, short=short)
            found.append(Found(scenario, outcome, time.monotonic() - begun))
            for check in outcome.failed:
                console.print(f"{scenario.name}: {check.what}: {check.found}", markup=False, highlight=False)
            advance(1)
    return found


async def _tried(scenario: Scenario, *, short: bool) -> Outcome:
    try:
        return await run(scenario, short=short)
    except Exception as error:  # noqa: BLE001 - the page says of every scenario what became of it
        return Outcome(
            [Check("the scenario runs to its end", holds=False, found=f"{type(error).__name__}: {error}")]
        )


if __name__ == "__main__":
    run_command(Chaos, sys.argv[1:], program="python -m benchmarks.chaos")
