"""The gallery as Markdown tables, for a terminal or a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.gallery.entries import Entry

Report = Mapping[str, Any]


@dataclass(frozen=True)
class Sheet:
    """A table, before it is formatted."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def as_markdown(self) -> str:
        """The table under its title."""
        lines = [self.columns, tuple("---" for _ in self.columns), *self.rows]
        return f"## {self.title}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def page_of(sheets: Sequence[Sheet], *, left_out: Sequence[str]) -> str:
    """All sheets under one heading."""
    intro = (
        "# Gallery\n\n"
        "Made by `python -m benchmarks.gallery --data DIR --page FILE`: seed 0, thresholds from held-out training\n"
        "samples, figures from all test images: 10,000, or 2,485 for grocery. CIFAR-10 is JPEG-encoded (q75).\n"
        "Milliseconds: one image at a time, ONNX Runtime, one thread; ratios carry over to other machines, times do\n"
        "not. p: McNemar, exact, two-sided.\n\n"
    )
    missing = f"\nNot trained yet: {', '.join(left_out)}.\n" if left_out else ""
    return intro + "\n".join(sheet.as_markdown() for sheet in sheets) + missing


def networks_sheet(found: Sequence[tuple[Entry, Sequence[Report]]]) -> Sheet:
    """One row for each operating point of each network, next to what the literature reports."""
    rows = [_network_row(entry, report) for entry, reports in found for report in reports]
    columns = (
        "network",
        "point",
        "accuracy",
        "full network",
        "MACs",
        "ms",
        "left at exit 1 / 2 / …",
        "rival",
        "published",
    )
    return Sheet("Networks", columns, rows)


def families_sheet(found: Sequence[tuple[Entry, Report, float | None]]) -> Sheet:
    """One row for each way of training the same network; the time is that of its own training alone."""
    rows = [
        (
            entry.name,
            " / ".join(_percent(exit["accuracy"]) for exit in report["exits"]),
            _percent(report["accuracy"]),
            f"{report['macs_ratio']:.2f}× fewer",
            "–" if seconds is None else f"{seconds / 60:.0f} min",
            entry.start or "–",
        )
        for entry, report, seconds in found
    ]
    columns = ("run", "accuracy per exit", "accuracy at drop-0.5", "MACs", "training time", "started from")
    return Sheet("Training regimes, on B-AlexNet", columns, rows)


def _network_row(entry: Entry, report: Report) -> tuple[str, ...]:
    return (
        entry.name,
        str(report["operating_point"]),
        _percent(report["accuracy"]),
        _percent(report["full_accuracy"]),
        f"{report['macs_ratio']:.2f}× fewer",
        f"{report['ms_mean']:.3f}",
        " / ".join(f"{exit['rate']:.1%}" for exit in report["exits"]),
        "; ".join(_rival(rival, report) for rival in report["rivals"]) or "–",
        entry.published,
    )


def _rival(rival: Report, report: Report) -> str:
    name = rival["bundle"].rpartition("-")[0]
    work, time = rival["macs"] / report["macs_mean"], rival["ms"] / report["ms_mean"]
    accuracy = f"{_percent(rival['accuracy'])} (p = {rival['mcnemar_p']:.3f})"
    return f"{name}: {accuracy}, {work:.2f}× the MACs, {time:.2f}× the time"


def _percent(share: float) -> str:
    return f"{share:.2%}"
