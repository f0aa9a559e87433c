"""Runs two edges and two clouds for half an hour with everything that may happen: `python -m benchmarks.soak`.

Each edge has two processes and gets normal photos, junk, and clients that leave; every 20 s a cloud is paused, stopped
or killed, and comes back. Memory, descriptors and threads of each node and process are to stay flat.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
from pydantic import Field
from rich.console import Console

from benchmarks.soak.life import Clouds, junk, trouble
from benchmarks.soak.page import Soaked, page_of, plot_of
from benchmarks.soak.samples import Sampler
from offramp.command import Command, run_command
from offramp.errors import ConfigError
from tests.chaos import strangers
from tests.chaos.load import Tally
from tests.chaos.nodes import Node, everything_to_the_cloud, free_port
from tests.chaos.stage import Stage


class Soak(Command):
    """See whether anything grows under load, junk, aborts and restarts; needs Linux and the extras report and dev.

    Example: python -m benchmarks.soak --minutes 30 --page benchmarks/soak/results.md
    """

    minutes: float = Field(default=30, gt=0, description="how long")
    every_s: float = Field(default=5, gt=0, description="seconds between two samples of each process")
    per_second: float = Field(default=15, gt=0, description="normal photos to each edge")
    page: Path | None = Field(
        default=None, description="also write this Markdown file, and the picture next to it"
    )

    def execute(self) -> None:
        """Run for the time, then show the figures; the exit status is 2 if something grows or a request is lost."""
        with tempfile.TemporaryDirectory() as folder, Stage(Path(folder), short=False) as stage:
            found = asyncio.run(self._soak(stage))
        text = page_of(found, self.minutes)
        Console().print(text, markup=False, highlight=False, soft_wrap=True)
        if self.page:
            self.page.write_text(text, encoding="utf-8")
            plot_of(found, self.page.with_suffix(".svg"))
        if wrong := found.wrong:
            raise ConfigError("; ".join(wrong))

    async def _soak(self, stage: Stage) -> Soaked:
        seconds = self.minutes * 60
        clouds = Clouds(stage, (str(free_port()), str(free_port())))
        target = ",".join(each.address for each in clouds.nodes)
        edges = [stage.edge("--upstream", f"ipv4:{target}", "--processes", "2") for _ in range(2)]
        for edge in edges:
            everything_to_the_cloud(edge)
        loads = [stage.load(edge, self.per_second) for edge in edges]
        visitors = {
            "junk": [stage.stranger(junk, edge.address) for edge in edges],
            "left": [stage.stranger(strangers.abort, edge.address, 0.2) for edge in edges],
        }
        sampler = Sampler(lambda: _processes(edges, clouds), self.every_s)
        await trouble(clouds, until_s=seconds)
        tallies = [Tally.of(await asyncio.to_thread(load.stop)) for load in loads]
        return Soaked(
            series=sampler.stop(),
            tallies=tallies,
            visitors={kind: sum(each.sent for each in them) for kind, them in visitors.items()},
            clouds=dict(clouds.done),
        )


def _processes(edges: list[Node], clouds: Clouds) -> Mapping[str, Sequence[psutil.Process]]:
    """The processes of each node together, whichever they are at the moment, and each process of an edge by itself."""
    found: dict[str, Sequence[psutil.Process]] = {}
    for number, edge in enumerate(edges, start=1):
        processes = edge.processes()
        found[f"edge {number}"] = processes
        found |= {f"edge {number}, {process.pid}": [process] for process in processes}
    return found | {f"cloud {number}": node.processes() for number, node in enumerate(clouds.nodes, start=1)}


if __name__ == "__main__":
    run_command(Soak, sys.argv[1:], program="python -m benchmarks.soak")
