"""What attacks and faults did, as one page: a row for each scenario, its bars, and a picture of the latencies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.gallery.page import Sheet
from benchmarks.serving.page import machine
from tests.chaos.load import Tally
from tests.chaos.stage import Outcome, Scenario

_COLUMNS = (
    "row",
    "what is done",
    "sent",
    "whole",
    "degraded",
    "refused",
    "lost",
    "p99 at rest → meanwhile, ms",
    "worst, ms",
    "whole again after, s",
    "MiB",
    "bars held",
)


@dataclass(frozen=True)
class Found:
    """A scenario, what came of it, and how long it took in seconds."""

    scenario: Scenario
    outcome: Outcome
    seconds: float


def page_of(found: Sequence[Found], *, short: bool) -> str:
    """The whole page in Markdown."""
    held = sum(not each.outcome.failed for each in found)
    rows = {each.scenario.row for each in found}
    intro = (
        "# Attacks and faults\n\n"
        f"Made by `python -m benchmarks.chaos{' --short' if short else ''}` on {datetime.now(UTC):%d %B %Y}. Nodes are "
        "real processes with the bundle b-alexnet-cifar10 and default settings, if nothing else is said. Meanwhile "
        "somebody asks 20 times a second about photos of 640 × 480, every second time over a new connection; their "
        "requests are what is counted here. Strangers, clients and nodes share one machine.\n\n"
        f"{machine()}\n\n"
        f"{held} of {len(found)} scenarios, of {len(rows)} kinds, hold all their bars.\n\n"
    )
    table = Sheet("Scenarios", _COLUMNS, [_row(each) for each in found]).as_markdown()
    bars = [
        (each.scenario.name, check.what, "yes" if check.holds else "**no**", _plain(check.found))
        for each in found
        for check in each.outcome.checks
    ]
    picture = "![latency at rest and meanwhile](results.svg)\n\n"
    details = Sheet("Bars", ("scenario", "bar", "holds", "found"), bars).as_markdown()
    return f"{intro}{table}\n{picture}{details}"


def _row(each: Found) -> tuple[str, ...]:
    outcome = each.outcome
    rest, during = outcome.rest, outcome.during
    total = len(outcome.checks)
    return (
        str(each.scenario.row),
        each.scenario.what,
        *_counts(outcome.during),
        f"{_ms(rest.p99_ms if rest else None)} → {_ms(during.p99_ms if during else None)}",
        _ms(during.worst_ms if during else None),
        "–" if outcome.recovery_s is None else f"{outcome.recovery_s:.1f}",
        "–" if outcome.memory_mb is None else f"{outcome.memory_mb:.0f}",
        f"{total - len(outcome.failed)} of {total}",
    )


def _counts(tally: Tally | None) -> tuple[str, ...]:
    if tally is None:
        return ("–",) * 5
    return tuple(map(str, (tally.sent, tally.whole, tally.degraded, tally.refused, tally.lost)))


def _ms(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.0f}"


def _plain(text: str) -> str:
    return " ".join(text.replace("|", "/").split())


def plot_of(found: Sequence[Found], path: Path) -> None:
    """The 99th percentile of normal photos at rest and meanwhile, for each scenario that has both."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pairs = [
        (each.scenario.name, each.outcome.rest.p99_ms, each.outcome.during.p99_ms)
        for each in found
        if each.outcome.rest and each.outcome.during
    ][::-1]
    figure, axes = pyplot.subplots(figsize=(8, 1.2 + 0.32 * len(pairs)), layout="constrained")
    for at, (_, rest, during) in enumerate(pairs):
        axes.plot([rest, during], [at, at], color="0.7", zorder=1)
    axes.scatter([rest for _, rest, _ in pairs], range(len(pairs)), label="at rest", zorder=2)
    axes.scatter([during for _, _, during in pairs], range(len(pairs)), label="meanwhile", zorder=2)
    axes.set_yticks(range(len(pairs)), [name for name, _, _ in pairs])
    axes.set_xscale("log")
    axes.set_xlabel("p99 of normal photos, ms")
    axes.legend()
    figure.savefig(path)
    pyplot.close(figure)
