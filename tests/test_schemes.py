"""Thresholds gate by gate and from quantiles, and the schemes that are only compared with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from offramp.authoring.evaluation.comparison import alternatives, patience_taken
from offramp.authoring.evaluation.offloads import OffloadCount, Offloads
from offramp.authoring.evaluation.table import ExitTable
from offramp.authoring.selection.budget import bytes_budget, ms_budget
from offramp.authoring.selection.calibrate import calibrate, check_budget
from offramp.authoring.selection.gates import gate_thetas
from offramp.authoring.selection.quantiles import quantile_thetas
from offramp.authoring.selection.thresholds import search_thresholds
from offramp.bundle import Manifest, OperatingPoint
from offramp.bundle.manifest import Levels, Tensor
from offramp.engine.payload import PayloadRule
from offramp.errors import ConfigError
from offramp.wire.messages import request_bytes
from tests.builders import manifest_with
from tests.test_thresholds import costs, table_of


def honest(samples: int, exits: int = 3) -> ExitTable:
    """An exit is right as often as it says it is; the last one always."""
    generator = np.random.default_rng(0)
    confidence = generator.random((samples, exits), dtype=np.float32)
    correct = generator.random((samples, exits)) < confidence
    correct[:, -1] = True
    return ExitTable(confidence, correct)


class TestGates:
    @pytest.mark.parametrize("tolerance", [0.05, 0.1, 0.3])
    def test_no_gate_spoils_more_of_what_it_accepts_than_it_may(self, tolerance: float) -> None:
        table = honest(20_000)
        taken = table.exit_taken(gate_thetas(table, tolerance=tolerance))
        for exit in (0, 1):
            accepted = taken == exit
            assert accepted.any()
            assert (~table.correct[accepted, exit]).mean() <= tolerance

    def test_a_gate_opens_as_far_as_it_may(self) -> None:
        # Of all above θ this exit has (1 + θ) / 2 right: a tenth may be spoilt, so θ is about 0.8.
        (theta, _) = gate_thetas(honest(20_000), tolerance=0.1)
        assert theta == pytest.approx(0.8, abs=0.03)

    def test_a_gate_must_be_surer_where_fewer_samples_speak_for_it(self) -> None:
        assert gate_thetas(honest(300), tolerance=0.1)[0] > gate_thetas(honest(20_000), tolerance=0.1)[0]

    def test_a_gate_that_cannot_be_trusted_never_opens(self) -> None:
        table = ExitTable(np.full((500, 2), 0.9, np.float32), np.array([[False, True]] * 500))
        assert gate_thetas(table, tolerance=0.1) == (1.0,)
        assert gate_thetas(honest(500), tolerance=0.0) == (1.0, 1.0)

    def test_what_the_full_network_has_wrong_too_is_not_spoilt(self) -> None:
        table = ExitTable(np.full((500, 2), 0.9, np.float32), np.zeros((500, 2), bool))
        assert gate_thetas(table, tolerance=0.1) == (0.0,)

    def test_a_gate_that_may_spoil_everything_accepts_everything(self) -> None:
        assert gate_thetas(honest(300), tolerance=1.0)[0] == 0


class TestQuantiles:
    @pytest.mark.parametrize("max_macs", [110, 300, 600, 890])
    def test_the_budget_is_kept_and_used(self, max_macs: float) -> None:
        table = table_of(4000, 3)
        thetas = quantile_thetas(table, costs(3), max_macs=max_macs)
        spent = np.array(costs(3))[table.exit_taken(thetas)].mean()
        assert 0.98 * max_macs <= spent <= max_macs

    def test_the_shares_are_geometric(self) -> None:
        table = table_of(20_000, 4)
        taken = table.exit_taken(quantile_thetas(table, costs(4), max_macs=700))
        shares = np.bincount(taken, minlength=4) / len(taken)
        assert shares[1] / shares[0] == pytest.approx(shares[2] / shares[1], rel=0.02)
        assert shares[2] / shares[1] == pytest.approx(shares[3] / shares[2], rel=0.02)

    def test_a_budget_below_the_first_exit_is_refused_with_the_least_there_is(self) -> None:
        with pytest.raises(ConfigError, match="the least these exits cost is 100"):
            quantile_thetas(table_of(100, 3), costs(3), max_macs=99)

    def test_confidences_that_tie_are_not_cut_apart(self) -> None:
        table = ExitTable(np.full((100, 2), 0.5, np.float32), np.ones((100, 2), bool))
        thetas = quantile_thetas(table, (100, 200), max_macs=150)
        assert table.exit_taken(thetas).tolist() == [0] * 100, (
            "half of them cannot be told from the other half"
        )


class TestComparison:
    def test_patience_waits_until_so_many_exits_in_a_row_agree(self) -> None:
        said = np.array([[1, 1, 2, 2], [1, 2, 2, 2], [1, 2, 3, 4], [1, 2, 1, 1]])
        assert patience_taken(said, 2).tolist() == [1, 2, 3, 3]
        assert patience_taken(said, 3).tolist() == [3, 3, 3, 3]

    def test_all_exits_together_outvote_one_that_errs(self) -> None:
        # Two samples of class 0; the last exit is wrong on both, a little and very much so.
        probabilities = np.array(
            [[[0.9, 0.1], [0.8, 0.2], [0.4, 0.6]], [[0.6, 0.4], [0.6, 0.4], [0.001, 0.999]]], np.float32
        )
        found = {a.scheme: a for a in alternatives(probabilities, np.zeros(2, np.int64), (1, 2, 4))}
        assert found["mean of all exits"].accuracy == 0.5
        assert found["geometric mean"].accuracy == 0.5
        assert found["mean of all exits"].macs_mean == 4, "every exit is always asked"
        assert found["patience, 2 agreeing exits"].accuracy == 1
        assert found["patience, 2 agreeing exits"].macs_mean == 2


@pytest.mark.parametrize(
    ("asked", "default"),
    [
        ({"scheme": "gates", "max_drop": 20.0}, "gates-20"),
        ({"scheme": "quantiles", "max_cost": 0.6}, "quantiles-0.6"),
    ],
)
def test_a_scheme_gives_the_default_and_the_ladder_stays(asked: dict[str, Any], default: str) -> None:
    chosen = calibrate(manifest_with([True, True, True]), honest(2000), **asked)
    assert chosen.default_operating_point == default
    assert {"full", "drop-1"} <= {point.name for point in chosen.operating_points}


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"scheme": "luck"}, "expected search, gates, quantiles"),
        ({"scheme": "gates", "max_cost": 0.5}, "give --max-drop"),
        ({"scheme": "quantiles"}, "give one with --max-cost"),
    ],
)
def test_a_scheme_without_its_budget_is_refused(asked: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        calibrate(manifest_with([True, True]), table_of(50, 2), **asked)


@pytest.mark.parametrize("split_point", [2, 3])
def test_one_point_sends_nothing_and_is_the_best_that_does(split_point: int) -> None:
    table = honest(2000)
    point = OperatingPoint(name="full", thetas=(1.0, 1.0), split_point=split_point)
    manifest = calibrate(manifest_with([True, True, True], operating_points=(point,)), table)
    local = manifest.point_named("edge-only")
    assert local.measured is not None and local.measured.offload_rate == 0
    best_alone = max(table.correct[:, exit].mean() for exit in range(split_point - 1))
    assert local.measured.accuracy >= best_alone - 1e-9


def test_behind_a_bottleneck_points_are_held_against_the_best_there_is() -> None:
    table = honest(2000)
    worse = ExitTable(table.confidence, table.correct.copy())
    worse.correct[::3, -1] = False  # what a bottleneck does to the last exit
    wide = manifest_with([True, True, True])
    first, second, third = wide.blocks
    code = Tensor(shape=(1,), dtype="uint8")
    narrow = manifest_with(
        [True, True, True],
        blocks=(
            first.model_copy(update={"feature": code, "levels": Levels(frequencies=(1, 1))}),
            second.model_copy(update={"input": code}),
            third,
        ),
        operating_points=(OperatingPoint(name="full", thetas=(1.0, 1.0), split_point=2, codec="ans"),),
    )
    best = search_thresholds(worse, wide.exit_macs).path[0].accuracy
    for manifest, least in ((wide, worse.correct[:, -1].mean()), (narrow, best)):
        measured = calibrate(manifest, worse, max_drop=0).operating_point.measured
        assert measured is not None and measured.accuracy >= least - 1e-9
    assert best > worse.correct[:, -1].mean() + 0.05


def features(manifest: Manifest, count: int) -> Offloads:
    """Samples that would all send a feature of four bytes."""
    counted = OffloadCount(manifest, PayloadRule("feature", 4.0, 0), 2)
    for _ in range(count):
        counted.add("feature", 4)
    return counted.offloads()


class TestBudgets:
    def test_bytes_are_those_of_a_sample_that_goes_on(self) -> None:
        manifest = manifest_with([True, True, True])  # split before block 2; a feature is one float32
        sent = request_bytes(manifest, 2, 4)
        assert bytes_budget(manifest, 3, features(manifest, 10)).exit_costs == [0, sent, sent]
        assert bytes_budget(manifest, 3, None).exit_costs == [0, 0, 0]
        assert sent > 4 + 60

    def test_as_many_are_sent_as_the_budget_allows_and_no_more(self) -> None:
        manifest, table = manifest_with([True, True, True]), honest(5000)
        chosen = calibrate(
            manifest,
            table,
            budget=bytes_budget(manifest, 0.25 * request_bytes(manifest, 2, 4), features(manifest, 5000)),
        )
        measured = chosen.operating_point.measured
        assert measured is not None
        assert 0.23 < measured.offload_rate <= 0.25

    def test_a_budget_holds_where_the_hard_samples_are_the_large_ones(self) -> None:
        manifest, table = manifest_with([True, True, True]), honest(5000)
        found = features(manifest, 5000)
        large_N = np.where(table.confidence[:, 0] < 0.5, 3 * found.socket_bytes, found.socket_bytes)
        found = replace(found, socket_bytes=large_N)
        limit = 0.25 * float(large_N.mean())
        chosen = calibrate(manifest, table, budget=bytes_budget(manifest, limit, found), offloads=found)
        measured = chosen.operating_point.measured
        assert measured is not None and measured.request_bytes_mean is not None
        assert 0.8 * limit < measured.request_bytes_mean <= limit

    @pytest.mark.parametrize(
        ("limit", "name"), [(1e6, "bytes-1000000"), (1234567, "bytes-1234567"), (1e20, "bytes-1e20")]
    )
    def test_large_budgets_name_a_point_too(self, limit: float, name: str) -> None:
        manifest = manifest_with([True, True, True])
        chosen = calibrate(
            manifest, honest(200), budget=bytes_budget(manifest, limit, features(manifest, 200))
        )
        assert chosen.default_operating_point == name

    def test_milliseconds_count_as_measured_and_not_as_multiplications(self) -> None:
        manifest, table = manifest_with([True, True, True]), honest(5000)
        chosen = calibrate(manifest, table, budget=ms_budget(2.0, (1.0, 1.5, 8.0)))
        measured = chosen.operating_point.measured
        assert measured is not None
        assert 1.9 < np.dot(measured.exit_rates, (1.0, 1.5, 8.0)) <= 2.0

    def test_what_no_thresholds_can_keep_is_said_with_the_nearest(self) -> None:
        with pytest.raises(ConfigError, match=r"at most 0.5 milliseconds; the least these exits cost is 1"):
            calibrate(manifest_with([True, True]), honest(200, 2), budget=ms_budget(0.5, (1.0, 3.0)))

    @pytest.mark.parametrize(
        ("asked", "says"),
        [
            ({"max_ms": 1.0, "max_bytes": 1.0}, "--max-ms and --max-bytes cannot be combined"),
            ({"max_ms": -1.0}, "--max-ms is -1"),
            ({"max_bytes": float("nan")}, "--max-bytes is nan"),
            ({"max_ms": 1.0, "scheme": "gates"}, "--scheme gates cannot be combined with --max-ms"),
        ],
    )
    def test_a_budget_that_makes_no_sense_is_refused(self, asked: dict[str, Any], says: str) -> None:
        with pytest.raises(ConfigError, match=says):
            check_budget(**{"max_drop": None, "max_cost": None, **asked})
