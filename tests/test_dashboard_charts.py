"""What the dashboard's charts show, of one answer and of the operating points."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from offramp.bundle import load_bundle
from offramp_dashboard.charts.live import traffic
from offramp_dashboard.charts.palette import LIGHT
from offramp_dashboard.charts.tradeoff import cost_here, costs_known, frontier
from offramp_dashboard.charts.trial import spans
from offramp_dashboard.history import Bin
from offramp_dashboard.reading import Key
from offramp_dashboard.schemas import Prediction
from tests.conftest import FASHION_BUNDLE

ANSWER = {
    "label": "a",
    "confidence": 0.9,
    "exit": {"number": 2, "name": "final", "tier": "cloud"},
    "exits": [
        {"number": 1, "confidence": 0.4, "theta": 0.8},
        {"number": 2, "confidence": 0.9, "theta": None},
    ],
    "degraded": False,
    "degraded_reason": None,
    "timings_ms": {"decode": 1.0, "edge_compute": 2.0, "offload": 10.0, "total": 14.0},
    "sent": "feature",
    "uplink_bytes": 100,
    "upstream_ms": [{"tier": "cloud", "queue": 1.0, "compute": 5.0}],
    "probabilities": {"a": 0.9, "b": 0.1},
}


def test_spans_follow_each_other_and_upstream_times_lie_within_the_offload() -> None:
    found = {span.name: span for span in spans(Prediction.model_validate(ANSWER))}
    assert [(span.start_ms, span.length_ms) for span in found.values()] == [
        (0, 1), (1, 2), (3, 10), (5, 1), (6, 5), (13, 1),
    ]  # fmt: skip
    assert found["cloud compute"].inside and not found["offload"].inside


def test_spans_are_never_negative_though_clocks_disagree() -> None:
    odd = ANSWER | {"timings_ms": {"decode": 1, "edge_compute": 2, "offload": 3, "total": 4}}
    assert all(span.length_ms >= 0 for span in spans(Prediction.model_validate(odd)))


def test_answers_of_other_tasks_are_put_into_words() -> None:
    rest = {name: value for name, value in ANSWER.items() if name not in ("label", "probabilities")}
    several = Prediction.model_validate(rest | {"labels": [{"label": "Apple"}, {"label": "Gala"}]})
    assert several.label == "Apple; Gala" and several.names("Gala") and not several.names("Pear")
    assert Prediction.model_validate(rest | {"labels": []}).label == "no label"
    value = {"quantity": "angle", "value": -11.84, "std": 4.12, "unit": "degrees"}
    assert Prediction.model_validate(rest | value).label == "angle -11.84 ± 4.1 degrees"
    for odd in ({"labels": [1]}, {"value": "high", "std": 1, "quantity": "", "unit": ""}, {}):
        with pytest.raises(ValidationError):
            Prediction.model_validate(rest | odd)


def test_costs_that_were_never_measured_are_not_offered() -> None:
    points = load_bundle(FASHION_BUNDLE).manifest.operating_points
    bare = [point.model_copy(update={"measured": None}) for point in points]
    assert "MACs" in costs_known(points)
    assert costs_known(bare) == []
    assert frontier(bare, "MACs", None, LIGHT)["series"][1]["data"] == []


def test_the_frontier_rises_and_marks_the_point_in_force() -> None:
    points = load_bundle(FASHION_BUNDLE).manifest.operating_points
    line, dots = frontier(points, "MACs", "drop-1", LIGHT)["series"]
    accuracies = [y for _, y in line["data"]]
    assert accuracies == sorted(set(accuracies))
    assert [dot["name"] for dot in dots["data"] if dot["symbolSize"] > 12] == ["drop-1"]


@pytest.mark.parametrize(
    ("accuracies", "low", "high"),
    [((0.9, 0.991), 90, 100), ((0.25, 0.99), 25, 100), ((0.9981, 1.0), 99.8, 100), ((0.5,), 50, 50.1)],
)
def test_an_axis_of_accuracies_has_round_ends_and_none_beyond_a_hundred_per_cent(
    accuracies: tuple[float, ...], low: float, high: float
) -> None:
    (point, *_) = load_bundle(FASHION_BUNDLE).manifest.operating_points
    assert point.measured is not None
    points = [
        point.model_copy(update={"measured": point.measured.model_copy(update={"accuracy": accuracy})})
        for accuracy in accuracies
    ]
    axis = frontier(points, "MACs", None, LIGHT)["yAxis"]
    assert (axis["min"], axis["max"]) == (low, high)
    lines = (high - low) / axis["interval"]
    assert lines == pytest.approx(round(lines)) and lines <= 6


def test_thetas_by_hand_are_a_line_at_what_they_cost_here() -> None:
    manifest = load_bundle(FASHION_BUNDLE).manifest
    gained = {
        Key("offramp_samples_total", (("exit", "exit-1"), ("tier", "edge"))): 3.0,
        Key("offramp_samples_total", (("exit", "final"), ("tier", "cloud"))): 1.0,
    }
    here = cost_here("MACs", manifest, gained)
    early, late = manifest.exit_macs
    assert here == pytest.approx(0.75 * early + 0.25 * late)
    assert cost_here("milliseconds", manifest, gained) is None and cost_here("MACs", manifest, {}) is None
    line = frontier(manifest.operating_points, "MACs", None, LIGHT, by_hand=here)["series"][-1]
    assert line["markLine"]["data"] == [{"xAxis": here}]


def test_bytes_over_time_are_told_apart_by_what_was_sent_whatever_a_node_calls_it() -> None:
    gained = {
        Key("offramp_samples_total"): 4.0,
        Key("offramp_image_bytes_total"): 4000.0,
        Key("offramp_uplink_bytes_total", (("sent", "image"),)): 800.0,
        Key("offramp_uplink_bytes_total", (("sent", "hologram"),)): 100.0,
    }
    series = traffic([Bin(1, gained, 4.0)], LIGHT)["series"]
    assert {line["name"]: line["data"][0][1] for line in series} == {
        "photo as it came": 200,
        "hologram": 25,
        "if every photo were sent": 1000,
    }
