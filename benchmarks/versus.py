"""Compare the speed of another version of the project with this one, in one run: requests a second, new to old.

    python -m benchmarks.versus OLD --python OLD/.venv/bin/python --cifar10 ZIP

In every round, the nodes of both versions start afresh and wrk asks them in turn: old, new, new, old; in the next round
new, old, old, new. Each round gives one ratio, so a steady drift of the machine cancels out. It needs wrk
(`apt-get install wrk`) and an otherwise idle machine.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Column, Table

from benchmarks.checkouts import Checkout, end_with_status
from benchmarks.serving.load import turn, write_script
from benchmarks.shipped import WAYS, add_data_options, positive, shipped_photos
from offramp.cli.progress import progress

_ORDERS = (("old", "new", "new", "old"), ("new", "old", "old", "new"))  # in even rounds, in odd rounds
_WARM_UP_S = 1  # fills caches and compiles what is compiled on first use


@dataclass(frozen=True)
class Round:
    """Mean requests a second of both versions, measured close together in time."""

    old_per_s: float
    new_per_s: float

    @property
    def ratio(self) -> float:
        """New to old."""
        return self.new_per_s / self.old_per_s


def main() -> None:
    """Measure both versions and print the ratios."""
    parser = ArgumentParser(
        prog="python -m benchmarks.versus", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("old", type=Path, help="checkout of the other version")
    parser.add_argument(
        "--python", type=Path, required=True, help="interpreter that has the other version installed"
    )
    parser.add_argument("--rounds", type=positive, default=7, help="rounds of four turns each")
    parser.add_argument("--seconds", type=positive, default=3, help="length of each turn")
    parser.add_argument("--clients", type=positive, default=16, help="connections")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_data_options(parser)
    options = parser.parse_args()
    end_with_status(parser, lambda: _run(options))


def _run(options: Namespace) -> bool:
    versions = {"old": Checkout(options.old, options.python), "new": Checkout()}
    for version in versions.values():
        version.check()
    with shipped_photos(options) as folders, TemporaryDirectory() as scratch:
        scripts = {bundle: Path(scratch) / f"{bundle}.lua" for bundle in folders}
        for bundle, script in scripts.items():
            write_script(script, folders[bundle])
        found = _measured(versions, scripts, options)
    if options.json:
        print(json.dumps({name: [asdict(each) for each in rounds] for name, rounds in found.items()}))
    else:
        Console().print(_table(found, options))
    return True


def _measured(
    versions: Mapping[str, Checkout], scripts: Mapping[str, Path], options: Namespace
) -> dict[str, list[Round]]:
    cases = {f"{bundle}, {way}": (bundle, way) for bundle in scripts for way in WAYS}
    found: dict[str, list[Round]] = {name: [] for name in cases}
    with progress("rounds", len(cases) * options.rounds) as advance:
        for number in range(options.rounds):
            for name, (bundle, way) in cases.items():
                with ExitStack() as stack:
                    urls = {
                        version: stack.enter_context(checkout.serving(bundle, with_cloud=WAYS[way]))
                        for version, checkout in versions.items()
                    }
                    found[name].append(_round(urls, _ORDERS[number % 2], scripts[bundle], options))
                advance(1)
    return found


def _round(urls: Mapping[str, str], order: Sequence[str], script: Path, options: Namespace) -> Round:
    for url in urls.values():
        turn(url, script, clients=options.clients, seconds=_WARM_UP_S)
    seen: dict[str, list[float]] = {version: [] for version in urls}
    for version in order:
        done = turn(urls[version], script, clients=options.clients, seconds=options.seconds)
        seen[version].append(done.per_second)
    return Round(old_per_s=mean(seen["old"]), new_per_s=mean(seen["new"]))


def _table(found: Mapping[str, Sequence[Round]], options: Namespace) -> Table:
    table = Table(
        Column("bundle", no_wrap=True),
        "nodes",
        title=f"Requests: {options.rounds} rounds of 4 turns of {options.seconds} s, {options.clients} connections",
    )
    for column in ("old /s", "new /s", "new / old (range)"):
        table.add_column(column, justify="right")
    for name, rounds in found.items():
        ratios = [each.ratio for each in rounds]
        table.add_row(
            *name.split(", "),
            f"{median(each.old_per_s for each in rounds):.0f}",
            f"{median(each.new_per_s for each in rounds):.0f}",
            f"{median(ratios):.3f} ({min(ratios):.3f} – {max(ratios):.3f})",
        )
    return table


if __name__ == "__main__":
    main()
