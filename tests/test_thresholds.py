"""The search for θ, against trying every combination one by one."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from offramp.authoring.evaluation.table import ExitTable
from offramp.authoring.selection.calibrate import calibrate
from offramp.authoring.selection.choice import Choice
from offramp.authoring.selection.coordinate import descend_all_prices
from offramp.authoring.selection.thresholds import ThresholdGrid, search_grid, search_thresholds
from offramp.errors import ConfigError
from tests.builders import manifest_with


def table_of(samples: int, exits: int, seed: int = 0) -> ExitTable:
    """Random predictions: deeper exits are right more often, sure answers more often than unsure ones."""
    generator = np.random.default_rng(seed)
    confidence = generator.random((samples, exits), dtype=np.float32)
    skill = np.linspace(0.5, 0.9, exits)
    return ExitTable(confidence, generator.random((samples, exits)) < skill + 0.2 * (confidence - 0.5))


def costs(exits: int) -> tuple[int, ...]:
    return tuple(100 * number**2 for number in range(1, exits + 1))


def one_by_one(table: ExitTable, grid: ThresholdGrid) -> list[Choice]:
    """Every combination of the grid's candidates, evaluated sample by sample."""
    choices = []
    for thetas in itertools.product(*(axis.tolist() for axis in grid.candidates)):
        taken = table.exit_taken(thetas)
        right = table.correct[np.arange(table.num_samples), taken]
        macs = np.array(costs(table.num_exits))[taken]
        choices.append(Choice(thetas, float(right.mean()), float(macs.mean())))
    return choices


@pytest.mark.parametrize(("exits", "steps"), [(2, 41), (3, 13), (4, 7)])
def test_the_grid_holds_what_each_combination_does(exits: int, steps: int) -> None:
    table = table_of(300, exits)
    grid = search_grid(table, costs(exits), steps=steps)
    expected = one_by_one(table, grid)
    np.testing.assert_allclose(grid.accuracy.ravel(), [choice.accuracy for choice in expected])
    np.testing.assert_allclose(grid.mean_cost.ravel(), [choice.mean_cost for choice in expected])


@pytest.mark.parametrize("max_drop", [0.0, 0.5, 3.0, 20.0])
def test_the_cheapest_point_within_a_drop_is_found(max_drop: float) -> None:
    table = table_of(400, 3)
    grid = search_grid(table, costs(3), steps=21)
    found = grid.front().cheapest(max_drop=max_drop)
    allowed = [c for c in one_by_one(table, grid) if c.accuracy >= grid.full_accuracy - max_drop / 100 - 1e-9]
    assert found.accuracy >= grid.full_accuracy - max_drop / 100 - 1e-9
    assert found.mean_cost == pytest.approx(min(choice.mean_cost for choice in allowed))


@pytest.mark.parametrize("max_cost", [100, 250, 500, 900])
def test_the_most_accurate_point_within_a_cost_is_found(max_cost: float) -> None:
    table = table_of(400, 3)
    grid = search_grid(table, costs(3), steps=21)
    found = grid.front().most_accurate(max_cost=max_cost)
    allowed = [choice for choice in one_by_one(table, grid) if choice.mean_cost <= max_cost]
    assert found.mean_cost <= max_cost
    assert found.accuracy == pytest.approx(max(choice.accuracy for choice in allowed))


@pytest.mark.parametrize("seed", range(5))
def test_not_one_sample_is_given_away_for_a_lower_cost(seed: int) -> None:
    table = table_of(5000, 2, seed)
    grid = search_grid(table, costs(2))
    allowed = grid.accuracy[grid.mean_cost <= 250]
    assert grid.front().most_accurate(max_cost=250).accuracy == allowed.max()


def test_confidences_that_tie_are_not_cut_apart_nor_hit() -> None:
    confidence = np.repeat(np.array([0.25, 0.5, 0.99999994], np.float32), 100)[:, np.newaxis]
    table = ExitTable(np.hstack([confidence, confidence]), np.ones((300, 2), bool))
    (candidates,) = search_grid(table, costs(2)).candidates
    assert not np.isin(candidates, confidence).any()


def test_what_no_thresholds_can_do_is_said_with_the_nearest() -> None:
    grid = search_grid(table_of(100, 3), costs(3), steps=11)
    with pytest.raises(ConfigError, match="the least these exits cost is 100"):
        grid.front().most_accurate(max_cost=99)
    with pytest.raises(ConfigError, match="the best these exits reach"):
        grid.front().cheapest(max_drop=-50)


@pytest.mark.parametrize(("samples", "at_least"), [(1, 0), (2, 1), (50, 49), (500, 190)])
def test_no_candidate_but_0_and_1_lies_on_a_confidence(samples: int, at_least: int) -> None:
    table = table_of(samples, 2)
    (candidates,) = search_grid(table, costs(2)).candidates
    inner = candidates[(candidates > 0) & (candidates < 1)]
    assert len(inner) >= at_least
    assert not np.isin(inner, table.confidence[:, 0]).any()


def test_a_full_grid_over_two_exits_covers_both_ends() -> None:
    grid = search_grid(table_of(10_000, 3), costs(3))
    assert grid.accuracy.shape == tuple(len(axis) for axis in grid.candidates)
    assert all(axis[0] == 0 and axis[-1] == 1 and len(axis) > 195 for axis in grid.candidates)


def test_no_samples_and_too_many_combinations_are_refused() -> None:
    with pytest.raises(ConfigError, match="got none"):
        search_thresholds(table_of(0, 2), costs(2))
    with pytest.raises(ConfigError, match="fewer steps"):
        search_grid(table_of(10, 6), costs(6))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("max_drop", [0.0, 1.0, 5.0])
def test_descending_one_theta_at_a_time_comes_close_to_the_exact_grid(seed: int, max_drop: float) -> None:
    table = table_of(2000, 3, seed)
    exact = search_thresholds(table, costs(3)).cheapest(max_drop=max_drop)
    found = descend_all_prices(table, costs(3), steps=201).cheapest(max_drop=max_drop)
    assert exact.mean_cost - 1e-6 <= found.mean_cost <= 1.02 * exact.mean_cost


def test_many_exits_are_searched_by_descent_and_what_is_found_is_true() -> None:
    table = table_of(3000, 7)
    front = search_thresholds(table, costs(7))
    for choice in front.path:
        taken = table.exit_taken(choice.thetas)
        assert choice.accuracy == pytest.approx(table.correct_at(taken).mean())
        assert choice.mean_cost == pytest.approx(np.array(costs(7))[taken].mean())
    assert front.cheapest(max_drop=0.0).mean_cost < costs(7)[-1]
    assert front.path[-1].mean_cost == costs(7)[0]


def test_the_first_exit_that_is_sure_enough_is_taken() -> None:
    table = ExitTable(
        np.array([[0.9, 0.9, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.1]], np.float32), np.ones((3, 3), bool)
    )
    assert table.exit_taken((0.5, 0.5)).tolist() == [0, 1, 2]
    assert table.exit_taken((1.0, 1.0)).tolist() == [2, 2, 2]
    assert table.exit_taken((0.0, 1.0)).tolist() == [0, 0, 0]


def test_a_confidence_that_equals_theta_stops_as_it_does_when_served() -> None:
    table = ExitTable(np.array([[0.7, 0.1], [0.6999999, 0.1]], np.float32), np.ones((2, 2), bool))
    assert table.exit_taken((0.7,)).tolist() == [0, 1]


class TestCalibrate:
    def test_each_point_keeps_the_drop_it_is_named_for(self) -> None:
        chosen = calibrate(manifest_with([True, True, True]), table_of(1000, 3))
        full = table_of(1000, 3).correct[:, -1].mean()
        promised = [p for p in chosen.operating_points if p.name != "edge-only"]
        drops = {p.name: p.measured.accuracy for p in promised if p.measured}
        assert len(drops) == len(promised) > 3
        for name, accuracy in drops.items():
            allowed = 0.0 if name == "full" else float(name.removeprefix("drop-"))
            assert accuracy >= full - allowed / 100 - 1e-9

    @pytest.mark.parametrize("drop", ["0.1", "0.2", "0.5", "1", "2", "5"])
    def test_each_step_of_the_ladder_is_the_cheapest_within_its_drop(self, drop: str) -> None:
        manifest, table = manifest_with([True, True, True]), table_of(5000, 3)
        found = calibrate(manifest, table).point_named(f"drop-{drop}").measured
        cheapest = search_thresholds(table, manifest.exit_macs).cheapest(max_drop=float(drop))
        assert found is not None and found.macs_mean == pytest.approx(cheapest.mean_cost)

    def test_the_default_is_what_was_asked_for(self) -> None:
        manifest, table = manifest_with([True, True, True]), table_of(1000, 3)
        assert calibrate(manifest, table).default_operating_point == "drop-0.5"
        assert calibrate(manifest, table, max_drop=3).default_operating_point == "drop-3"
        cheap = calibrate(manifest, table, max_cost=0.5)
        assert cheap.default_operating_point == "cost-0.5"
        measured = cheap.operating_point.measured
        assert measured is not None and measured.macs_mean <= 0.5 * manifest.backbone_macs

    def test_points_are_listed_from_the_dearest_to_the_cheapest(self) -> None:
        points = calibrate(manifest_with([True, True, True]), table_of(1000, 3)).operating_points
        macs = [point.measured.macs_mean for point in points if point.measured]
        assert points[0].name == "full" and macs == sorted(macs, reverse=True)

    def test_no_two_points_are_the_same(self) -> None:
        chosen = calibrate(manifest_with([True, True]), table_of(50, 2))
        thetas = [point.thetas for point in chosen.operating_points]
        assert len(set(thetas)) == len(thetas)

    def test_exit_rates_and_offload_rate_add_up(self) -> None:
        chosen = calibrate(manifest_with([True, True, True]), table_of(1000, 3))
        measured = chosen.operating_point.measured
        assert measured is not None
        assert sum(measured.exit_rates) == pytest.approx(1)
        assert measured.offload_rate == pytest.approx(sum(measured.exit_rates[1:])), "split before block 2"

    @pytest.mark.parametrize(
        "budget",
        [
            {"max_drop": 1.0, "max_cost": 0.5},
            {"max_drop": -1.0},
            {"max_cost": 0.0},
            {"max_cost": 1.01},
            {"max_cost": float("nan")},
        ],
    )
    def test_a_budget_that_makes_no_sense_is_refused(self, budget: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match="--max"):
            calibrate(manifest_with([True, True]), table_of(50, 2), **budget)
