"""The figures of a soak as a table and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

from benchmarks.gallery.page import Sheet
from benchmarks.serving.page import machine
from benchmarks.soak.samples import MOST_PER_HOUR, Figure, Series
from tests.chaos.load import Tally

_FIGURES: tuple[Figure, ...] = get_args(Figure)
_WORDS: Mapping[Figure, str] = {"memory_mb": "MiB", "files": "descriptors", "threads": "threads"}
_WHOLE_LIFE = 0.9  # of the time: processes that lived less were replaced, and tell nothing about growth


@dataclass(frozen=True)
class Soaked:
    """What was seen of each process, what became of normal photos at each edge, and what else happened."""

    series: Sequence[Series]
    tallies: Sequence[Tally]
    visitors: Mapping[str, int]
    clouds: Mapping[str, int]

    @property
    def lasting(self) -> list[Series]:
        """Those that were there from beginning to end."""
        end = max(each.samples[-1].at_s for each in self.series)
        return [
            each
            for each in self.series
            if each.samples[-1].at_s - each.samples[0].at_s >= _WHOLE_LIFE * end and len(each.samples) > 2
        ]

    @property
    def wrong(self) -> list[str]:
        """What grows, and what was lost."""
        found = [
            f"{each.name}: {each.per_hour(figure):+.1f} {_WORDS[figure]} an hour"
            for each in self.lasting
            for figure in _FIGURES
            if not each.is_flat(figure)
        ]
        if lost := sum(each.lost + each.refused for each in self.tallies):
            found.append(f"{lost} normal photos lost or refused")
        return found


def page_of(found: Soaked, minutes: float) -> str:
    """The whole page in Markdown."""
    photos = [(f"edge {number}", *_counts(tally)) for number, tally in enumerate(found.tallies, start=1)]
    columns = ("asked of", "sent", "whole", "degraded", "refused", "lost", "p50 / p99, ms")
    head = (
        "process",
        *(f"{_WORDS[figure]}: warm → end (most)" for figure in _FIGURES),
        *(f"{_WORDS[figure]} an hour" for figure in _FIGURES),
    )
    tables = [
        Sheet("Normal photos", columns, photos),
        Sheet("Nodes, and their processes by id", head, [_row(each) for each in found.lasting]),
    ]
    picture = "![memory, descriptors and threads over time](results.svg)\n"
    return "\n".join([_intro(found, minutes), *(table.as_markdown() for table in tables), picture])


def _intro(found: Soaked, minutes: float) -> str:
    limits = ", ".join(f"{MOST_PER_HOUR[figure]:g} {_WORDS[figure]}" for figure in _FIGURES)
    happened = ", ".join(f"{count} × {kind}" for kind, count in found.clouds.items()) or "never"
    verdict = (
        f"Wrong: {'; '.join(found.wrong)}." if found.wrong else "Everything is flat, and nothing was lost."
    )
    return (
        "# Soak\n\n"
        f"Made by `python -m benchmarks.soak --minutes {minutes:g}` on {datetime.now(UTC):%d %B %Y}. Two edges of two "
        "processes each and two clouds; every photo needs a cloud. Meanwhile strangers sent "
        f"{found.visitors.get('junk', 0):,} files of junk, {found.visitors.get('left', 0):,} clients left before "
        f"their answer, and clouds were held, stopped or killed: {happened}. The first third of the time is "
        f"warm-up; after it, nothing may gain more than {limits} an hour.\n\n{machine()}\n\n{verdict}\n"
    )


def _counts(tally: Tally) -> tuple[str, ...]:
    numbers = (tally.sent, tally.whole, tally.degraded, tally.refused, tally.lost)
    return (*map(str, numbers), f"{tally.p50_ms:.0f} / {tally.p99_ms:.0f}")


def _row(each: Series) -> tuple[str, ...]:
    levels = (
        f"{each.ends(figure)[0]:.0f} → {each.ends(figure)[1]:.0f} ({each.most(figure):.0f})"
        for figure in _FIGURES
    )
    return (each.name, *levels, *(f"{each.per_hour(figure):+.1f}" for figure in _FIGURES))


def plot_of(found: Soaked, path: Path) -> None:
    """Each figure of each lasting process over time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(_FIGURES), 1, figsize=(9, 8), sharex=True, layout="constrained")
    for name, each in zip(_FIGURES, axes, strict=True):
        for series in found.lasting:
            minutes = [sample.at_s / 60 for sample in series.samples]
            each.plot(minutes, [getattr(sample, name) for sample in series.samples], label=series.name)
        each.set_ylabel(_WORDS[name])
        each.set_ylim(bottom=0)
    axes[-1].set_xlabel("minutes")
    axes[0].legend(fontsize=7)
    figure.savefig(path)
    pyplot.close(figure)
