"""The plots of an evaluation, as SVG for its page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from offramp.authoring.evaluation.report import Report
from offramp.authoring.evaluation.table import ExitTable

# Stands for the colour of the page's text, which depends on its scheme; see `_svg`.
_INK = "#010203"
_LINE = "#8794a1"
# Each can be told from a white and from a dark page.
COLOURS = ("#1f8f82", "#c47a15", "#c8553d", "#5b84ad", "#8d6a9f", "#7a8a2c")
_STYLE: dict[Any, Any] = {  # the stubs accept only a literal name of a setting as a key
    "font.size": 10,
    "font.family": "sans-serif",
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _LINE,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "offramp",  # the same figures give the same file
}
_BINS = 15


def trade_off(report: Report, points: Sequence[Report]) -> Markup:
    """Accuracy over cost: operating points, each exit alone, rivals."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(5, 3.6), layout="constrained")
        axes = figure.subplots()
        ordered = sorted(points, key=lambda point: point.macs_mean)
        axes.plot(
            [point.macs_mean / 1e6 for point in ordered],
            [100 * point.accuracy for point in ordered],
            "o-",
            color=COLOURS[0],
            label="operating points",
        )
        _name_points(axes, ordered)
        axes.plot(
            [exit.macs / 1e6 for exit in report.exits],
            [100 * exit.accuracy for exit in report.exits],
            "s",
            color=COLOURS[1],
            label="one exit for all images",
        )
        for rival in report.rivals:
            axes.plot([rival.macs / 1e6], [100 * rival.accuracy], "D", color=COLOURS[2], label=rival.bundle)
        axes.set(xlabel="million multiplications per image, on average", ylabel="accuracy, %")
        axes.legend(frameon=False)
        return _svg(figure, "accuracy against multiplications; the table below has the figures")


def _name_points(axes: Axes, points: Sequence[Report]) -> None:
    """Write the names beside the plot, one below the other so that none hides another, with a line to each point."""
    lowest, *_, highest = sorted(point.accuracy for point in (points[0], *points))
    wide = (highest - lowest) or 1.0
    gap = min(0.075, 1 / len(points))
    at = 1.0 + gap
    for point in sorted(points, key=lambda point: (-point.accuracy, point.macs_mean)):
        at = min(at - gap, (point.accuracy - lowest) / wide)
        axes.annotate(
            point.operating_point or "",
            (point.macs_mean / 1e6, 100 * point.accuracy),
            xytext=(1.04, at),
            textcoords="axes fraction",
            verticalalignment="center",
            arrowprops={"arrowstyle": "-", "color": _LINE, "linewidth": 0.6},
        )


def reliability(table: ExitTable) -> list[Markup]:
    """Accuracy against confidence, a plot for each exit; on the diagonal they are equal."""
    plots = []
    with mpl.rc_context(_STYLE):
        for exit in range(table.num_exits):
            figure = Figure(figsize=(2.7, 2.7), layout="constrained")
            axes = figure.subplots()
            confidence_N = table.confidence[:, exit]
            bin_N = np.minimum((confidence_N * _BINS).astype(np.int64), _BINS - 1)
            counts = np.bincount(bin_N, minlength=_BINS)
            right = np.bincount(bin_N, table.correct[:, exit], minlength=_BINS)
            filled = counts > 0
            axes.bar(
                ((np.arange(_BINS) + 0.5) / _BINS)[filled],
                (right[filled] / counts[filled]),
                width=0.9 / _BINS,
                color=COLOURS[exit % len(COLOURS)],
            )
            axes.plot([0, 1], [0, 1], color=_LINE, linewidth=1)
            axes.set(title=f"exit {exit + 1}", xlabel="confidence", xlim=(0, 1), ylim=(0, 1))
            axes.set_ylabel("accuracy")
            plots.append(_svg(figure, f"accuracy against confidence at exit {exit + 1}"))
    return plots


def _svg(figure: Figure, said: str) -> Markup:
    """The figure as it stands in a page; `said` is read aloud in its place."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    # A page needs only the <svg> element, without the prologue of a file. We drew it, so it needs no escaping.
    text = text[text.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{said}"', 1)
    # What isn't a colour of its own has that of the page's text, whether the page is light or dark.
    return Markup(text.replace(_INK, "currentColor"))
