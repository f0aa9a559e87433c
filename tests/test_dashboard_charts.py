"""What the dashboard's charts show, of one answer and of the operating points."""

from __future__ import annotations

from offramp.bundle import load_bundle
from offramp_dashboard.charts.palette import LIGHT
from offramp_dashboard.charts.tradeoff import costs_known, frontier
from offramp_dashboard.charts.trial import spans
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
