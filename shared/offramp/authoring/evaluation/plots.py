"""The plots of an evaluation, as SVG for its page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray

from offramp.authoring.evaluation.report import Report
from offramp.authoring.evaluation.table import ExitTable

_INK = "#1f2933"
_COLOURS = ("#2a9d8f", "#e9a03b", "#c8553d", "#577590", "#8d6a9f", "#43617e")
_STYLE: dict[Any, Any] = {  # the stubs accept only a literal name of a setting as a key
    "font.size": 9,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": "#9aa5b1",
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
        figure = Figure(figsize=(7.2, 3.6), layout="constrained")
        axes = figure.subplots()
        ordered = sorted(points, key=lambda point: point.macs_mean)
        axes.plot(
            [point.macs_mean / 1e6 for point in ordered],
            [100 * point.accuracy for point in ordered],
            "o-",
            color=_COLOURS[0],
            label="operating points",
        )
        for point in ordered:
            axes.annotate(
                point.operating_point or "",
                (point.macs_mean / 1e6, 100 * point.accuracy),
                xytext=(4, -10),
                textcoords="offset points",
                fontsize=7,
            )
        axes.plot(
            [exit.macs / 1e6 for exit in report.exits],
            [100 * exit.accuracy for exit in report.exits],
            "s",
            color=_COLOURS[1],
            label="one exit for all images",
        )
        for rival in report.rivals:
            axes.plot([rival.macs / 1e6], [100 * rival.accuracy], "D", color=_COLOURS[2], label=rival.bundle)
        axes.set(xlabel="million multiplications per image, on average", ylabel="accuracy, %")
        axes.legend(frameon=False)
        return _svg(figure)


def reliability(table: ExitTable) -> Markup:
    """Accuracy against confidence, exit by exit; on the diagonal they are equal."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(2.4 * table.num_exits, 2.5), layout="constrained")
        for exit, axes in enumerate(np.atleast_1d(figure.subplots(1, table.num_exits, sharey=True))):
            confidence_N = table.confidence[:, exit]
            bin_N = np.minimum((confidence_N * _BINS).astype(np.int64), _BINS - 1)
            counts = np.bincount(bin_N, minlength=_BINS)
            right = np.bincount(bin_N, table.correct[:, exit], minlength=_BINS)
            filled = counts > 0
            axes.bar(
                ((np.arange(_BINS) + 0.5) / _BINS)[filled],
                (right[filled] / counts[filled]),
                width=0.9 / _BINS,
                color=_COLOURS[exit % len(_COLOURS)],
            )
            axes.plot([0, 1], [0, 1], color="#9aa5b1", linewidth=1)
            axes.set(title=f"exit {exit + 1}", xlabel="confidence", xlim=(0, 1), ylim=(0, 1))
        figure.axes[0].set_ylabel("accuracy")
        return _svg(figure)


def by_class(
    taken_N: NDArray[np.int64], classes_N: NDArray[np.int64], labels: Sequence[str], num_exits: int
) -> Markup:
    """At which exits the samples of each class leave."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 0.9 + 0.26 * len(labels)), layout="constrained")
        axes = figure.subplots()
        of_class = np.maximum(np.bincount(classes_N, minlength=len(labels)), 1)
        left = np.zeros(len(labels))
        for exit in range(num_exits):
            share = 100 * np.bincount(classes_N[taken_N == exit], minlength=len(labels)) / of_class
            axes.barh(
                labels, share, left=left, color=_COLOURS[exit % len(_COLOURS)], label=f"exit {exit + 1}"
            )
            left += share
        axes.invert_yaxis()
        axes.set(xlabel="% of the class", xlim=(0, 100))
        axes.legend(frameon=False, ncols=num_exits, loc="lower left", bbox_to_anchor=(0, 1))
        return _svg(figure)


def _svg(figure: Figure) -> Markup:
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    # A page needs only the <svg> element, without the prologue of a file. We drew it, so it needs no escaping.
    return Markup(text[text.index("<svg") :])
