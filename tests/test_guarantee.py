"""Thresholds with a guarantee: the statistics, and that the promise is kept."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest

from offramp.authoring.evaluation.predictions import ExitPredictions
from offramp.authoring.evaluation.table import ExitTable
from offramp.authoring.selection.guarantee import Guarantee, binomial_p_value, choose_guaranteed
from offramp.authoring.selection.thresholds import search_grid, search_thresholds
from offramp.bundle import load_bundle
from offramp.errors import ConfigError
from tests.conftest import ROOT

COSTS = (100, 400, 900)


def population(samples: int, seed: int = 0) -> ExitTable:
    """Three exits: the surer an early one is, the more rarely it does harm; the last never does."""
    generator = np.random.default_rng(seed)
    confidence = generator.random((samples, 3), dtype=np.float32)
    harmless = generator.random((samples, 3)) > 0.3 * (1 - confidence) ** 2
    harmless[:, -1] = True
    return ExitTable(confidence, harmless)


@pytest.mark.parametrize(
    ("failures", "samples", "epsilon"), [(0, 10, 0.1), (3, 20, 0.2), (20, 20, 0.5), (7, 500, 0.02)]
)
def test_the_p_value_is_that_of_the_binomial_test(failures: int, samples: int, epsilon: float) -> None:
    exact = sum(
        math.comb(samples, k) * epsilon**k * (1 - epsilon) ** (samples - k) for k in range(failures + 1)
    )
    assert binomial_p_value(failures, samples, epsilon) == pytest.approx(exact)


@pytest.mark.parametrize("bundle", sorted(path.name for path in (ROOT / "models").iterdir() if path.is_dir()))
def test_the_certificates_that_ship_are_found_again(bundle: str) -> None:
    points = load_bundle(ROOT / "models" / bundle).manifest.operating_points
    (found,) = [point.certificate for point in points if point.certificate]
    p_value = binomial_p_value(found.failures, found.samples, found.epsilon)
    assert p_value == pytest.approx(found.p_value, abs=1e-9)


def test_scipy_is_loaded_only_where_statistics_are_asked_for() -> None:
    modules = "edge_node.app, cloud_node.server, offramp.cli, offramp.engine.tier"
    modules += ", offramp.authoring.evaluation.report, offramp.authoring.selection.calibrate"
    result = subprocess.run(
        [sys.executable, "-c", f"import sys, {modules}; print('scipy' in sys.modules)"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert result.stdout == "False\n"


def test_the_path_falls_in_accuracy_and_in_cost_and_nothing_beats_it() -> None:
    grid = search_grid(population(200), COSTS, steps=15)
    path = grid.front().path
    for surer, cheaper in itertools.pairwise(path):
        assert surer.accuracy > cheaper.accuracy and surer.mean_cost > cheaper.mean_cost
    for accuracy, macs in zip(grid.accuracy.ravel(), grid.mean_cost.ravel(), strict=True):
        assert any(point.accuracy >= accuracy and point.mean_cost <= macs for point in path)


def test_the_promise_is_kept_in_nine_of_ten_draws() -> None:
    everything, guarantee = population(20_000), Guarantee(epsilon=0.05, delta=0.1)
    generator = np.random.default_rng(1)
    broken = 0
    for _ in range(200):
        drawn = generator.permutation(20_000)
        chosen = choose_guaranteed(
            everything.take(drawn[:300]), everything.take(drawn[300:600]), COSTS, guarantee
        )
        rest = everything.take(drawn[600:])
        harmless = rest.correct[np.arange(rest.num_samples), rest.exit_taken(chosen.thetas)]
        broken += (~harmless).mean() > guarantee.epsilon
    # 200 draws at a chance of 0.1 each: 20 expected, 32 is the 99.5 % quantile.
    assert 0 < broken <= 32, "never broken would mean that it gives savings away"


def test_the_point_before_the_first_that_fails_is_taken() -> None:
    proposing, testing = population(400, 0), population(400, 1)
    guarantee = Guarantee(epsilon=0.05)
    chosen = choose_guaranteed(proposing, testing, COSTS, guarantee)
    assert chosen.p_value <= guarantee.delta
    path = [choice.thetas for choice in search_thresholds(proposing, COSTS).path]
    following = path[path.index(chosen.thetas) + 1]
    failures = int((~testing.correct[np.arange(400), testing.exit_taken(following)]).sum())
    assert binomial_p_value(failures, 400, guarantee.epsilon) > guarantee.delta


def test_where_nothing_passes_the_full_network_is_left() -> None:
    sure_and_wrong = ExitTable(np.full((500, 2), 0.9, np.float32), np.array([[False, True]] * 500))
    chosen = choose_guaranteed(sure_and_wrong, sure_and_wrong, (1, 2), Guarantee(epsilon=0.01))
    assert sure_and_wrong.exit_taken(chosen.thetas).tolist() == [1] * 500


def test_too_few_samples_are_refused_with_how_many_would_do() -> None:
    table = population(100)
    with pytest.raises(ConfigError, match="hold out at least 228"):
        choose_guaranteed(table, table, COSTS, Guarantee(epsilon=0.02))
    assert binomial_p_value(0, 114, 0.02) <= 0.1 < binomial_p_value(0, 113, 0.02)


def test_risks_count_what_they_say() -> None:
    class_index = np.array([[1, 1], [2, 1], [1, 2], [3, 2]])
    predictions = ExitPredictions(
        np.zeros((4, 2), np.float32), np.eye(4, dtype=np.float32)[class_index], None
    )
    truth = np.array([1, 1, 1, 1])
    assert predictions.harmless("disagreement", truth).correct[:, 0].tolist() == [True, False, False, False]
    assert predictions.harmless("harm", truth).correct[:, 0].tolist() == [True, False, True, True]
    assert predictions.harmless("harm", truth).correct[:, -1].all()


def test_a_last_exit_that_gets_a_lossy_picture_is_judged_by_the_network_that_gets_the_exact_one() -> None:
    class_index, one_hot = np.array([[1, 1], [2, 1], [1, 2], [3, 2]]), np.eye(4, dtype=np.float32)
    predictions = ExitPredictions(
        np.zeros((4, 2), np.float32), one_hot[class_index], None, one_hot[np.array([1, 2, 1, 1])]
    )
    truth = np.array([1, 1, 1, 1])
    disagreeing = predictions.harmless("disagreement", truth).correct
    assert disagreeing.tolist() == [[True, True], [True, False], [True, False], [False, False]]
    harmful = predictions.harmless("harm", truth).correct
    assert harmful.tolist() == [[True, True], [True, True], [True, False], [False, False]]
    assert predictions.against(truth).full_correct.mean() == 0.75


def test_a_picture_too_lossy_for_the_guarantee_is_refused() -> None:
    spoilt = ExitTable(np.full((500, 2), 0.9, np.float32), np.zeros((500, 2), bool))
    with pytest.raises(ConfigError, match=r"lossy picture: 100.0% .* give --payload exact"):
        choose_guaranteed(spoilt, spoilt, (1, 2), Guarantee(epsilon=0.05))
