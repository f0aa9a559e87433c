"""Confidence measures, against their closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from offramp.authoring.evaluation.statistics import calibration_error
from offramp.authoring.networks.confidence import Confidence, ConfidenceHead
from offramp.authoring.networks.confidence_head import fit_confidence_head, fit_failure_head
from offramp.authoring.networks.fitted import fitted_confidences
from offramp.bundle.manifest import Measure
from offramp.errors import ConfigError

MEASURES: list[Measure] = ["max_softmax", "score_margin", "entropy"]


def of(probabilities: list[float], measure: Measure) -> float:
    logits_BK = torch.tensor([probabilities]).log()
    return float(Confidence(measure).of(logits_BK)[1])


def test_max_softmax_is_the_largest_probability() -> None:
    assert of([0.2, 0.7, 0.1], "max_softmax") == pytest.approx(0.7)


def test_score_margin_is_the_distance_of_the_two_largest() -> None:
    assert of([0.2, 0.7, 0.1], "score_margin") == pytest.approx(0.5)


def test_entropy_is_one_minus_the_share_of_the_most_there_can_be() -> None:
    nats = -sum(p * math.log(p) for p in (0.2, 0.7, 0.1))
    assert of([0.2, 0.7, 0.1], "entropy") == pytest.approx(1 - nats / math.log(3), abs=1e-6)


@pytest.mark.parametrize(
    ("measure", "expected"),
    [("max_softmax", 0.5), ("score_margin", 0.0), ("entropy", 1 - math.log(2) / math.log(3))],
)
def test_wavering_between_two_classes_of_three(measure: Measure, expected: float) -> None:
    assert of([0.5, 0.5, 1e-30], measure) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("measure", MEASURES)
def test_certainty_is_the_largest_number_below_1(measure: Measure) -> None:
    logits_BK = torch.tensor([[0.0, 1e4, 0.0]])
    assert float(Confidence(measure).of(logits_BK)[1]) == 1 - 2**-24


@pytest.mark.parametrize(
    ("measure", "expected"), [("max_softmax", 0.25), ("score_margin", 0.0), ("entropy", 0.0)]
)
def test_knowing_nothing_is_the_least_confidence(measure: Measure, expected: float) -> None:
    assert of([0.25] * 4, measure) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("scale", [1.0, 50.0, 1e4, 1e30])
def test_no_logits_are_so_large_that_a_confidence_reaches_1(measure: Measure, scale: float) -> None:
    logits_BK = torch.randn(100, 10, generator=torch.Generator().manual_seed(0)) * scale
    probabilities_BK, confidence_B = Confidence(measure).of(logits_BK)
    assert bool((confidence_B >= 0).all()) and bool((confidence_B < 1).all())
    torch.testing.assert_close(probabilities_BK.sum(dim=1), torch.ones(100))


@pytest.mark.parametrize("measure", MEASURES)
def test_a_temperature_above_1_makes_it_modest_and_leaves_the_class(measure: Measure) -> None:
    logits_BK = torch.randn(50, 10, generator=torch.Generator().manual_seed(0)) * 3
    plain, modest = (Confidence(measure, t).of(logits_BK) for t in (1.0, 2.0))
    assert bool((modest[1] < plain[1]).all())
    assert torch.equal(modest[0].argmax(dim=1), plain[0].argmax(dim=1))


@pytest.mark.parametrize("measure", MEASURES)
def test_a_class_that_is_ruled_out_counts_for_nothing(measure: Measure) -> None:
    assert of([0.7, 0.3, 0.0], measure) == pytest.approx(of([0.7, 0.3, 1e-30], measure), abs=1e-6)


def test_a_head_adds_the_measures_up() -> None:
    head = ConfidenceHead(weights=(2.0, -1.0, 0.5), bias=-0.3)
    logits_BK = torch.tensor([[0.2, 0.7, 0.1]]).log()
    nats = -sum(p * math.log(p) for p in (0.2, 0.7, 0.1))
    score = 2 * 0.7 - 0.5 + 0.5 * (1 - nats / math.log(3)) - 0.3
    found = float(Confidence("learned", head=head).of(logits_BK)[1])
    assert found == pytest.approx(1 / (1 + math.exp(-score)), abs=1e-6)


def test_a_learned_confidence_is_as_sure_as_it_is_right() -> None:
    generator = np.random.default_rng(0)
    logits_NK = generator.normal(0, 3, (20_000, 5)).astype(np.float32)
    tempered = np.exp(logits_NK / 3) / np.exp(logits_NK / 3).sum(axis=1, keepdims=True)
    classes_N = (tempered.cumsum(axis=1) > generator.random((20_000, 1))).argmax(axis=1)
    head = fit_confidence_head(logits_NK, classes_N)
    logits_BK, right_N = torch.from_numpy(logits_NK), logits_NK.argmax(axis=1) == classes_N
    learned, plain = (
        calibration_error(how.of(logits_BK)[1].numpy(), right_N)
        for how in (Confidence("learned", head=head), Confidence("max_softmax"))
    )
    assert learned < plain / 5


@pytest.mark.parametrize("right", [True, False])
def test_a_head_stays_finite_when_all_answers_are_alike(right: bool) -> None:
    logits_NK = np.random.default_rng(0).normal(0, 3, (50, 4)).astype(np.float32)
    classes_N = logits_NK.argmax(axis=1) if right else logits_NK.argmin(axis=1)
    head = fit_confidence_head(logits_NK, classes_N)
    _, confidence_B = Confidence("learned", head=head).of(torch.from_numpy(logits_NK))
    assert bool((confidence_B > 0.5).all()) is right and bool(confidence_B.isfinite().all())


@pytest.mark.parametrize(
    ("measure", "head"), [("learned", None), ("failure", None), ("entropy", ConfidenceHead((1, 1, 1), 0))]
)
def test_a_head_belongs_to_a_fitted_measure_and_to_no_other(
    measure: Measure, head: ConfidenceHead | None
) -> None:
    with pytest.raises(ConfigError, match="need a confidence head"):
        Confidence(measure, head=head)


def test_a_failure_predictor_lets_go_what_the_whole_network_gets_wrong_too() -> None:
    generator = np.random.default_rng(0)
    logits_NK = generator.normal(0, 3, (4000, 3)).astype(np.float32)
    first, second = np.sort(logits_NK, axis=1)[:, :0:-1].T
    wavers_N = first - second < 1
    classes_N = np.where(wavers_N, logits_NK.argmin(axis=1), logits_NK.argmax(axis=1))
    of_wavering = [
        Confidence("failure", head=fit_failure_head(logits_NK, classes_N, full_N))
        .of(torch.from_numpy(logits_NK))[1][torch.from_numpy(wavers_N)]
        .mean()
        for full_N in (np.ones(4000, dtype=np.bool_), ~wavers_N)
    ]
    assert of_wavering[0] < 0.5, "the whole network would have been right, so it had better go on"
    assert of_wavering[1] > 0.9, "nothing is lost by leaving"


def test_a_confidence_that_tells_nothing_is_refused_with_its_exit() -> None:
    generator = np.random.default_rng(0)
    dead, alive = np.zeros((50, 3), dtype=np.float32), generator.normal(0, 3, (50, 3)).astype(np.float32)
    classes_N = generator.integers(0, 3, 50)
    with pytest.raises(ConfigError, match=r"exit 2 is equally confident \(0\.\d+\) in all 50 samples"):
        fitted_confidences("learned", [alive, dead, alive], classes_N)
    with pytest.raises(ConfigError, match="exit 1: its confidence is not a number for 50 of 50"):
        fitted_confidences("entropy", [dead * np.nan, alive], classes_N)
