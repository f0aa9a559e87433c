"""All measures on one bundle: fitted on one half of its held-out samples, thresholds from all of them, judged on test.

Shapes: N samples, E exits, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray

from offramp.authoring.evaluation.comparison import alternatives
from offramp.authoring.evaluation.statistics import auroc
from offramp.authoring.evaluation.table import ExitTable
from offramp.authoring.networks.confidence import Confidence, check_measure
from offramp.authoring.networks.fitted import fitted_confidences
from offramp.authoring.selection.guarantee import halves
from offramp.authoring.selection.thresholds import search_thresholds
from offramp.bundle import Manifest
from offramp.bundle.manifest import Measure
from offramp.bundle.task import SINGLE_LABEL
from offramp.errors import ConfigError

_FITTED: tuple[Measure, ...] = ("learned", "failure")
_BELOW_ONE = np.nextafter(np.float32(1), np.float32(0))


@dataclass(frozen=True, eq=False)
class Part:
    """What every exit says about the samples of one part.

    logits: (N, E, K). answers: (N, E, K), probabilities, the last exit's as the bundle answers, alone or aggregated.
    """

    logits: NDArray[np.float32]
    answers: NDArray[np.float32]
    classes_N: NDArray[np.int64]

    @property
    def right(self) -> NDArray[np.bool_]:
        """Where exits are right (N, E)."""
        right: NDArray[np.bool_] = self.answers.argmax(axis=2) == self.classes_N[:, np.newaxis]
        return right


@dataclass(frozen=True)
class Found:
    """One measure on the test part.

    aurocs: of each early exit. curve: accuracy and mean multiplications of every point on the held-out Pareto front.
    """

    aurocs: Sequence[float | None]
    curve: Sequence[tuple[float, float]]


def part_of(logits: NDArray[np.float32], classes_N: NDArray[np.int64], *, aggregates: bool) -> Part:
    """What the exits answer, from their logits."""
    logs = torch.log_softmax(torch.from_numpy(logits), dim=2).numpy()
    answers = np.exp(logs)
    if aggregates:
        answers[:, -1] = np.exp(logs.mean(axis=1))
    return Part(logits, answers, classes_N)


def compared(manifest: Manifest, unseen: Part, test: Part) -> Mapping[str, Found]:
    """Every measure a bundle can have, energy, and patience over exits, by name."""
    early = range(manifest.num_exits - 1)
    found = {}
    for name, (first, second) in _confidences(manifest, unseen, test).items():
        path = search_thresholds(ExitTable(first, unseen.right), manifest.exit_macs).path
        table = ExitTable(second, test.right)
        aurocs = [auroc(table.confidence[:, exit], test.right[:, exit]) for exit in early]
        found[name] = Found(aurocs, [_point(table, choice.thetas, manifest) for choice in path])
    ranked = [auroc(_agreement(test, exit), test.right[:, exit]) for exit in early]
    schemes = alternatives(test.answers, test.classes_N, manifest.exit_macs, aggregates=True)
    found["patience"] = Found(ranked, [(scheme.accuracy, scheme.macs_mean) for scheme in schemes])
    return found


def _confidences(
    manifest: Manifest, unseen: Part, test: Part
) -> Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Each measure's confidence (N, E) in the held-out samples and in those of the test part."""
    proposing, _ = halves(len(unseen.classes_N))
    found = {}
    for measure in filter(_fits_one_label, get_args(Measure)):
        how: Sequence[Confidence] = (
            [Confidence(measure)] * manifest.num_exits if measure not in _FITTED else ()
        )
        if measure in _FITTED:
            logits = [unseen.logits[proposing, exit] for exit in range(manifest.num_exits)]
            how = fitted_confidences(
                measure, logits, unseen.classes_N[proposing], aggregates=manifest.aggregates
            )
        found[str(measure)] = (_of(how, unseen), _of(how, test))
    # Energy is a logarithm of any size; scaled into [0, 1], which does not change its ranking.
    energies = [np.logaddexp.reduce(part.logits, axis=2) for part in (unseen, test)]
    mean_E, spread_E = energies[0][proposing].mean(axis=0), energies[0][proposing].std(axis=0)
    first, second = (
        np.minimum(1 / (1 + np.exp((mean_E - each) / spread_E)), _BELOW_ONE).astype(np.float32)
        for each in energies
    )
    return found | {"energy": (first, second)}


def _of(how: Sequence[Confidence], part: Part) -> NDArray[np.float32]:
    confidences = [
        confidence.of(torch.from_numpy(part.logits[:, exit]))[1].numpy()
        for exit, confidence in enumerate(how)
    ]
    return np.stack(confidences, axis=1)


def _point(table: ExitTable, thetas: Sequence[float], manifest: Manifest) -> tuple[float, float]:
    taken_N = table.exit_taken(thetas)
    macs_N = np.array(manifest.exit_macs)[taken_N]
    return float(table.correct_at(taken_N).mean()), float(macs_N.mean())


def _agreement(part: Part, exit: int) -> NDArray[np.float32]:
    """How many exits in a row, up to this one, agree (N,): what patience looks at."""
    class_index = part.answers.argmax(axis=2)[:, : exit + 1]
    row_N = np.ones(len(class_index), dtype=np.float32)
    for agreeing in range(2, exit + 2):
        row_N += (class_index[:, -agreeing:] == class_index[:, [exit]]).all(axis=1)
    return row_N


def hull_of(curve: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """The points that no mixture of two others beats, from the cheapest to the most accurate."""
    hull: list[tuple[float, float]] = []
    for accuracy, macs in sorted(set(curve), key=lambda point: (point[1], -point[0])):
        if hull and accuracy <= hull[-1][0]:
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) <= _slope(hull[-1], (accuracy, macs)):
            hull.pop()
        hull.append((accuracy, macs))
    return hull


def macs_at(curve: Sequence[tuple[float, float]], accuracy: float) -> float | None:
    """Fewest multiplications of a mixture of points that is as accurate; None if no point is."""
    hull = hull_of(curve)
    if accuracy <= hull[0][0]:
        return hull[0][1]
    for (low, less), (high, more) in pairwise(hull):
        if accuracy <= high:
            return less + (more - less) * (accuracy - low) / (high - low)
    return None


def _slope(first: tuple[float, float], second: tuple[float, float]) -> float:
    return (second[0] - first[0]) / max(second[1] - first[1], 1e-9)


def _fits_one_label(measure: Measure) -> bool:
    try:
        check_measure(measure, SINGLE_LABEL)
    except ConfigError:
        return False
    return True
