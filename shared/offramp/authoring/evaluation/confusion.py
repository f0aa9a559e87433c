"""Which classes are taken for which: the pairs that are confused most, and all of them as a picture.

Shapes: N samples, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

# Beyond this many classes nobody can find a cell; beyond the second number a cell has no room for its figure.
_MOST_CLASSES = 60
_MOST_WITH_FIGURES = 15


@dataclass(frozen=True)
class ConfusedPair:
    """Samples of a class that were taken for another one, of all samples of the first."""

    true: str
    predicted: str
    samples: int
    of: int


@dataclass(frozen=True, eq=False)
class Confusion:
    """counts_KK: how many samples of the class of each row were taken for the class of each column."""

    counts_KK: NDArray[np.int64]
    labels: Sequence[str]

    @property
    def pairs(self) -> list[ConfusedPair]:
        """The 20 pairs with the most samples, the largest share of its class first where these are equal."""
        of_class_K = self.counts_KK.sum(axis=1)
        wrong_KK = self.counts_KK - np.diag(np.diag(self.counts_KK))
        true_P, predicted_P = np.nonzero(wrong_KK)
        order_P = np.lexsort((of_class_K[true_P], -wrong_KK[true_P, predicted_P]))[:20]
        return [
            ConfusedPair(
                self.labels[true],
                self.labels[predicted],
                int(wrong_KK[true, predicted]),
                int(of_class_K[true]),
            )
            for true, predicted in zip(true_P[order_P], predicted_P[order_P], strict=True)
        ]

    @property
    def picture(self) -> Markup | None:
        """An SVG with a row for each true class and a column for each predicted one; None with too many classes."""
        count = len(self.labels)
        return _picture(self) if count <= _MOST_CLASSES else None


def confusion(
    classes_N: NDArray[np.int64], predicted_N: NDArray[np.int64], labels: Sequence[str]
) -> Confusion:
    """Count the true and the predicted class of every sample."""
    count = len(labels)
    cells_N = classes_N * count + predicted_N
    return Confusion(np.bincount(cells_N, minlength=count * count).reshape(count, count), labels)


def _picture(found: Confusion) -> Markup:
    count = len(found.labels)
    side = 34 if count <= _MOST_WITH_FIGURES else 15
    longest = max(map(len, found.labels))
    # The labels are set in 12 pixels, of which a letter takes 7 at most.
    margin = 12 + 7 * min(longest, 24)
    shares_KK = found.counts_KK / np.maximum(found.counts_KK.sum(axis=1, keepdims=True), 1)
    cells = [
        _cell(found, row, column, float(shares_KK[row, column]), margin, side)
        for row, column in zip(*np.nonzero(found.counts_KK), strict=True)
    ]
    size = margin + count * side + 8
    said = f"confusion matrix of {count} classes; the list beside it names the pairs that are confused most"
    text = f'<svg role="img" aria-label="{said}" width="{size}" height="{size}" viewBox="0 0 {size} {size}">'
    lines = [_names(found.labels, margin, side), *cells]
    return Markup(text + "".join(lines) + "</svg>")


def _names(labels: Sequence[str], margin: int, side: int) -> str:
    drawn = []
    for at, label in enumerate(labels):
        middle = margin + (at + 0.5) * side
        name = escape(label if len(label) <= 24 else label[:23] + "…")
        drawn.append(f'<text class="name" x="{margin - 6}" y="{middle + 4}" text-anchor="end">{name}</text>')
        drawn.append(
            f'<text class="name" transform="translate({middle + 4} {margin - 6}) rotate(-90)">{name}</text>'
        )
    return "".join(drawn)


def _cell(found: Confusion, row: int, column: int, share: float, margin: int, side: int) -> str:
    x, y = margin + column * side, margin + row * side
    samples = found.counts_KK[row, column]
    true, predicted = escape(found.labels[row]), escape(found.labels[column])
    kind = "hit" if row == column else "miss"
    # A few samples among many are what one looks for, so their cells are drawn stronger than their share.
    strength = 0.12 + 0.7 * share**0.5
    drawn = (
        f'<g><title>{true} taken for {predicted}: {samples}</title><rect class="{kind}" x="{x}" y="{y}" '
        f'width="{side - 1}" height="{side - 1}" fill-opacity="{strength:.2f}"/>'
    )
    if len(found.labels) <= _MOST_WITH_FIGURES:
        drawn += (
            f'<text x="{x + side / 2 - 0.5}" y="{y + side / 2 + 4}" text-anchor="middle">{samples}</text>'
        )
    return drawn + "</g>"
