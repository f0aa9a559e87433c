"""Make both tasks from scratch, serve them, and print the figures: `python -m benchmarks.tasks --data data`."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

from pydantic import Field

from benchmarks.tasks.making import ENTRIES, Entry, Found, make
from offramp.command import Command, run_command
from offramp.errors import ConfigError

_INTRO = """# Tasks beyond one label

Made by `python -m benchmarks.tasks --data DIR --page FILE`: seed 0, thresholds certified on held-out photos,
figures from all test photos. Right means all labels and no other, or within the tolerance. Served: by a cloud node and
an edge node, two processes, every test photo over HTTP.

"""


class Tasks(Command):
    """Make, train, certify, evaluate and serve one task of several labels, and one of a quantity.

    Example: python -m benchmarks.tasks --data data --out runs/tasks
    """

    data: Path = Field(description="directory with grocery.zip and mnist/")
    out: Path = Field(default=Path("runs/tasks"), description="where everything goes; what exists is kept")
    only: str | None = Field(default=None, description="name of the only task to do")
    page: Path | None = Field(default=None, description="also write the figures to this Markdown file")

    def execute(self) -> None:
        """Do each task, then print its figures."""
        chosen = [entry for entry in ENTRIES if self.only in (None, entry.name)]
        if not chosen:
            raise ConfigError(
                f"no task '{self.only}'; there are {', '.join(entry.name for entry in ENTRIES)}"
            )
        try:
            text = _INTRO + "\n".join(_section(entry, make(entry, self.data, self.out)) for entry in chosen)
        except subprocess.CalledProcessError as error:
            raise ConfigError(
                f"`offramp {error.cmd[3]} …` exited with {error.returncode}; its output is above"
            ) from error
        print(text)
        if self.page:
            self.page.write_text(text, encoding="utf-8")


def _section(entry: Entry, found: Found) -> str:
    report, certificate, close = found.report, found.certificate, found.report["closeness"]
    unit = f" {close['unit']}" if close["unit"] else ""
    left = Counter(answer["exit"]["name"] for answer in found.served)
    bytes_each = sum(answer["uplink_bytes"] for answer in found.served) / len(found.served)
    rows = {
        "right": f"{report['accuracy']:.1%}, full network {report['full_accuracy']:.1%}",
        close["measure"]: f"{close['here']:.3g}{unit}, full network {close['full']:.3g}{unit}",
        "work": f"{report['macs_ratio']:.2f} times less than the backbone",
        "certified": f"at most {certificate['epsilon']:.0%} disagree with the full network, with "
        f"{1 - certificate['delta']:.0%} confidence: {certificate['failures']} of {certificate['samples']} did",
        "disagreeing on the test part": f"{found.disagreeing:.1%}",
        "AUROC of the confidence": ", ".join(
            "-" if exit["auroc"] is None else f"{exit['auroc']:.2f}" for exit in report["exits"]
        ),
        "served": f"{len(found.served):,} photos; "
        + ", ".join(f"{count / len(found.served):.1%} left at {name}" for name, count in sorted(left.items()))
        + f"; {bytes_each:,.0f} bytes each",
        "served as evaluated": f"{found.equal:,} of {len(found.served):,} answers, to the last digit",
    }
    lines = "".join(f"| {name} | {value} |\n" for name, value in rows.items())
    return f"### {entry.name}\n\nOf {entry.what}.\n\n| | |\n| --- | --- |\n{lines}"


if __name__ == "__main__":
    run_command(Tasks, sys.argv[1:], program="python -m benchmarks.tasks")
