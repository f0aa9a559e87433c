"""The benchmark of confidence measures: what it reads off a curve of accuracy against work."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.confidence.logits import logits_of
from benchmarks.confidence.measures import compared, hull_of, macs_at, part_of
from offramp.authoring.evaluation.predictions import predict_every_exit
from offramp.bundle import Bundle

CURVE = [(0.5, 10.0), (0.6, 20.0), (0.52, 19.0), (0.8, 30.0), (0.9, 50.0), (0.85, 60.0)]


def test_a_point_that_a_mixture_beats_is_left_out() -> None:
    assert hull_of(CURVE) == [(0.5, 10.0), (0.8, 30.0), (0.9, 50.0)]


@pytest.mark.parametrize(("accuracy", "macs"), [(0.4, 10), (0.5, 10), (0.65, 20), (0.85, 40), (0.95, None)])
def test_work_at_an_accuracy_lies_between_the_points_around_it(accuracy: float, macs: float | None) -> None:
    assert macs_at(CURVE, accuracy) == (None if macs is None else pytest.approx(macs))


def test_its_logits_are_those_that_the_bundle_answers_from(tiny_bundle: Bundle) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (200, 8, 8, 3), dtype=np.uint8)
    logits = logits_of(tiny_bundle, pixels, lambda _: None)
    classes_N = np.random.default_rng(1).integers(0, 4, 200)
    part = part_of(logits, classes_N, aggregates=False)
    np.testing.assert_allclose(part.answers, predict_every_exit(tiny_bundle, pixels).probabilities, atol=1e-5)
    found = compared(tiny_bundle.manifest, part, part)
    assert {"max_softmax", "failure", "energy", "patience"} < set(found)
    full = part.right[:, -1].mean()
    assert all(macs_at(one.curve, full) for one in found.values() if one is not found["patience"])
