"""The dashboard's arithmetic: readings, rates, quantiles, history, figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from offramp.engine.images import photo_size
from offramp.errors import ConfigError
from offramp_dashboard.figures import (
    Payload,
    exit_shares,
    latencies,
    leavings,
    photo_bytes,
    reasons,
    serving_of,
    share_on,
    uplink_bytes,
)
from offramp_dashboard.history import SECONDS, History, Step, binned, rate_now
from offramp_dashboard.network import macs_for_a_photo, pictured
from offramp_dashboard.rates import buckets, increments, quantile, summed, total
from offramp_dashboard.reading import Key, Reading, ReadingError, parsed
from offramp_dashboard.samples import drawn_samples
from offramp_dashboard.schemas import Policy, Readiness, Upstream
from offramp_dashboard.settings import DashboardSettings
from offramp_dashboard.words import data_bytes, milliseconds, number, percent
from tests.builders import manifest_with
from tests.conftest import SAMPLES

TEXT = """
# TYPE offramp_samples_total counter
offramp_samples_total{exit="exit-1",tier="edge",outcome="ok"} 6.0
offramp_samples_total{exit="exit-1",tier="edge",outcome="degraded"} 1.0
offramp_samples_total{exit="final",tier="cloud",outcome="ok"} 3.0
# TYPE offramp_samples_created gauge
offramp_samples_created{exit="final",tier="cloud",outcome="ok"} 1.7e+09
# TYPE offramp_sample_seconds histogram
offramp_sample_seconds_bucket{exit="exit-1",le="0.001"} 5.0
offramp_sample_seconds_bucket{exit="exit-1",le="0.01"} 7.0
offramp_sample_seconds_bucket{exit="exit-1",le="+Inf"} 7.0
offramp_sample_seconds_count{exit="exit-1"} 7.0
offramp_sample_seconds_sum{exit="exit-1"} 0.01
# TYPE offramp_image_bytes_total counter
offramp_image_bytes_total 5000.0
# TYPE offramp_uplink_bytes_total counter
offramp_uplink_bytes_total{sent="feature"} 400.0
offramp_uplink_bytes_total{sent="image"} 100.0
# TYPE offramp_uplink_samples_total counter
offramp_uplink_samples_total{sent="feature"} 2.0
offramp_uplink_samples_total{sent="image"} 1.0
# TYPE offramp_degraded_total counter
offramp_degraded_total{reason="unavailable"} 1.0
# TYPE offramp_refused_total counter
offramp_refused_total{code="unsupported_media"} 2.0
# TYPE offramp_bundle_info gauge
offramp_bundle_info{bundle="tiny-1"} 1.0
# TYPE offramp_upstream_up gauge
offramp_upstream_up 1.0
# TYPE process_start_time_seconds gauge
process_start_time_seconds 100.0
"""
EMPTY = Reading({}, {}, 100.0)


def reading(samples: float, *, started: float = 1.0) -> Reading:
    return Reading({Key("offramp_samples_total"): samples}, {}, started)


def step(at: int, samples: float, seconds: float = 1.0) -> Step:
    return Step(at, seconds, {Key("offramp_samples_total"): samples})


def test_a_reading_has_counters_and_gauges_and_nothing_of_other_programs() -> None:
    read = parsed(TEXT + '# TYPE python_info gauge\npython_info{version="3.11"} 1.0\n')
    assert total(read.counters, "offramp_samples_total") == 10
    assert total(read.counters, "offramp_samples_total", tier="edge") == 7
    assert read.gauge("offramp_upstream_up") == 1
    assert read.bundle_id == "tiny-1"
    assert not any("created" in key.name or "python" in key.name for key in [*read.counters, *read.gauges])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<!doctype html><html>no</html>",
        "{}",
        "a{",
        "offramp_samples_total NaN",
        "offramp_samples_total",
        "\x00" * 50,
        TEXT.replace(" 6.0", " six"),
        "# TYPE offramp_samples_total counter\nofframp_samples_total -1.0\n",
    ],
)
def test_text_that_is_no_reading_is_refused(text: str) -> None:
    with pytest.raises(ReadingError):
        parsed(text)


def test_increments_are_differences() -> None:
    assert increments(reading(5), reading(8)) == {Key("offramp_samples_total"): 3}
    assert increments(reading(5), reading(5)) == {}


@pytest.mark.parametrize("after", [reading(2), reading(2, started=9.0)])
def test_a_restarted_node_gained_what_it_counted_since(after: Reading) -> None:
    assert increments(reading(5), after) == {Key("offramp_samples_total"): 2}


def test_a_restart_shows_even_when_the_counters_are_past_where_they_were() -> None:
    assert increments(reading(5), reading(7, started=9.0)) == {Key("offramp_samples_total"): 7}


@pytest.mark.parametrize(
    ("cumulative", "q", "expected"),
    [
        ([], 0.5, None),
        ([(1.0, 0.0), (math.inf, 0.0)], 0.5, None),
        ([(1.0, 10.0), (math.inf, 10.0)], 0.5, 0.5),
        ([(1.0, 5.0), (3.0, 10.0), (math.inf, 10.0)], 0.75, 2.0),
        ([(1.0, 0.0), (2.0, 4.0), (math.inf, 4.0)], 0.5, 1.5),
        ([(1.0, 5.0), (math.inf, 10.0)], 0.99, math.inf),
        ([(1.0, 5.0), (math.inf, 5.0)], 1.0, 1.0),
    ],
)
def test_quantiles_are_interpolated_within_a_bucket(
    cumulative: Sequence[tuple[float, float]], q: float, expected: float | None
) -> None:
    assert quantile(cumulative, q) == expected


def test_buckets_rise_and_add_up_over_nodes() -> None:
    gained = summed([parsed(TEXT).counters] * 2)
    assert buckets(gained, "offramp_sample_seconds", exit="exit-1") == [
        (0.001, 10),
        (0.01, 14),
        (math.inf, 14),
    ]


def test_history_is_bounded() -> None:
    history = History()
    for at in range(3 * SECONDS):
        history.add(step(at, 1))
    assert len(history.since(0)) == SECONDS
    history.add(step(10 * SECONDS, 1))
    assert len(history.since(0)) == 1


def test_bins_gather_seconds_and_have_gaps_where_nothing_was_read() -> None:
    bins = binned([[step(11, 2), step(12, 4), step(20, 6)]], until=20, seconds=10, width=5)
    assert [(one.at, one.samples_per_s) for one in bins] == [(15, 3.0), (20, 6.0)]
    bins = binned([[step(11, 2)]], until=20, seconds=10, width=5)
    assert [one.gained is None for one in bins] == [False, True]


def test_rates_of_nodes_are_added_though_one_was_out_of_reach() -> None:
    bins = binned([[step(4, 40, seconds=4.0)], [step(4, 2), step(3, 2)]], until=4, seconds=4, width=4)
    assert bins[0].samples_per_s == 10 + 2


def test_a_step_stays_in_its_bin_while_time_goes_on() -> None:
    steps = [step(at, at) for at in range(1, 30)]
    one, two = (binned([steps], until=until, seconds=20, width=5) for until in (26, 29))
    assert [b.at for b in one] == [b.at for b in two] == [15, 20, 25, 30]


def test_the_rate_of_a_node_that_is_gone_is_unknown() -> None:
    def rate(until: int) -> float | None:
        steps = [step(at, 3) for at in range(1, 60)]
        return rate_now(binned([steps], until=until, seconds=120, width=1))

    assert rate(60) == rate(61) == 3
    assert rate(90) is None


def test_leavings_go_from_shallow_to_deep() -> None:
    assert {key.name: count for key, count in leavings(parsed(TEXT).counters).items()} == {
        "exit-1 · edge": 6,
        "exit-1 · edge · degraded": 1,
        "final · cloud": 3,
    }


def test_figures_of_no_samples_are_absent() -> None:
    nothing: Mapping[Key, float] = increments(EMPTY, EMPTY)
    assert uplink_bytes(nothing) is None
    assert photo_bytes(nothing) is None
    assert exit_shares(nothing) == {}
    assert latencies(nothing) == []


def test_figures_of_one_reading() -> None:
    gained = increments(EMPTY, parsed(TEXT))
    assert uplink_bytes(gained) == 50
    assert photo_bytes(gained) == 500
    assert share_on(gained, {"edge"}) == 0.6
    assert exit_shares(gained) == {"exit-1": 0.7, "final": 0.3}
    assert reasons(gained) == [("refused", "unsupported_media", 2), ("degraded", "unavailable", 1)]
    (latency,) = latencies(gained)
    assert latency.answers == 7
    assert latency.quantiles_ms[0] == pytest.approx(0.7)


def test_numbers_are_short() -> None:
    assert [number(v) for v in (None, 0, 0.123, 12.34, 1204, 1_250_000)] == [
        "–", "0", "0.12", "12.3", "1,204", "1.25 M",
    ]  # fmt: skip
    assert [percent(v) for v in (None, 0, 0.5, 0.123)] == ["–", "0 %", "50 %", "12.3 %"]
    assert [data_bytes(v) for v in (None, 12, 4575, 2e6)] == ["–", "12 B", "4.58 kB", "2 MB"]
    assert [milliseconds(v) for v in (None, 0.031, 0.31, 12.3, 1500, math.inf)] == [
        "–", "0.031 ms", "0.31 ms", "12.3 ms", "1.50 s", "> 5 s",
    ]  # fmt: skip


def test_edges_come_from_the_command_line_or_a_variable() -> None:
    edges = ("http://a:1", "http://b:2")
    given = ["--edge", "http://a:1/", "--edge", "http://b:2", "--edge", "http://a:1/"]
    assert DashboardSettings.read(given).edge == edges
    with pytest.raises(ConfigError, match="is not an address"):
        DashboardSettings.read(["--edge", "localhost:8000"])


def test_a_variable_lists_edges_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASHBOARD_EDGE", "http://a:1, http://b:2")
    assert DashboardSettings.read().edge == ("http://a:1", "http://b:2")


def test_tiers_follow_the_split_point_until_answers_name_them() -> None:
    manifest = manifest_with([True, False, True])
    policy = Policy(thetas=(0.5,), operating_point="full", outlives_restart=False)
    ready = Readiness(ready=True, upstream=Upstream(target="b:1", up=True, reason=None))
    planned = pictured(manifest, policy, ready, {})
    assert [(tier.name, len(tier.stages)) for tier in planned] == [("edge", 1), ("upstream", 2)]
    seen = pictured(manifest, policy, ready, parsed(TEXT.replace('"exit-2"', '"final"')).counters)
    assert [(tier.name, tier.share_in) for tier in seen] == [("edge", 1.0), ("cloud", pytest.approx(0.3))]
    assert seen[1].sent == (Payload("feature", 2, 200.0), Payload("image", 1, 100.0))


def test_a_node_without_upstream_runs_all_blocks() -> None:
    ready = Readiness(ready=True, upstream=None)
    (tier,) = pictured(manifest_with([True, True]), None, ready, {})
    assert [stage.exit for stage in tier.stages] == ["exit-1", "final"]


def test_macs_of_a_photo_count_every_exit_on_the_way() -> None:
    ready = Readiness(ready=True, upstream=None)
    manifest = manifest_with([True, True])  # blocks of 100 and 200, EECs of 10 and 20
    assert macs_for_a_photo(pictured(manifest, None, ready, {})) == (None, 330)
    tiers = pictured(manifest, None, ready, parsed(TEXT).counters)
    taken, whole = macs_for_a_photo(tiers)
    assert taken == pytest.approx(110 + 0.3 * 220)
    assert whole == 330


def test_what_a_cloud_node_serves_is_told_for_a_call_and_a_second() -> None:
    text = """
# TYPE offramp_batch_samples histogram
offramp_batch_samples_bucket{le="+Inf"} 20.0
offramp_batch_samples_count 20.0
offramp_batch_samples_sum 50.0
# TYPE offramp_stage_seconds histogram
offramp_stage_seconds_bucket{stage="queue",le="0.001"} 0.0
offramp_stage_seconds_bucket{stage="queue",le="0.003"} 20.0
offramp_stage_seconds_bucket{stage="queue",le="+Inf"} 20.0
# TYPE offramp_refused_total counter
offramp_refused_total{code="RESOURCE_EXHAUSTED"} 3.0
"""
    serving = serving_of(parsed("# TYPE offramp_pending gauge\nofframp_pending 1.0\n" + text).counters, 10.0)
    assert (serving.calls_per_s, serving.samples_per_call, serving.refused) == (2.0, 2.5, 3.0)
    assert serving.waiting_ms == pytest.approx(1 + 0.95 * 2)
    assert serving.computing_ms is None
    assert serving_of({}, 0.0).calls_per_s is None


def test_samples_are_of_the_classes_of_the_bundle_and_from_the_folder_only() -> None:
    drawn = drawn_samples(SAMPLES, ("bag", "zebra", "../fashion-mnist/coat"))
    assert [sample.label for sample in drawn.samples] == ["bag"] and drawn.num_classes == 1
    assert drawn_samples(SAMPLES / "absent", ("bag",)).samples == []


def test_a_large_sample_is_offered_as_a_thumbnail(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    (tmp_path / "bag").mkdir()
    file = tmp_path / "bag" / "large.png"
    Image.fromarray(noise).save(file)
    (tmp_path / "coat").mkdir()
    (tmp_path / "coat" / "damaged.jpg").write_bytes(b"no photo")
    assert file.stat().st_size > 300_000
    large, damaged = drawn_samples(tmp_path, ("bag", "coat")).samples
    assert large.thumbnail is not None and photo_size(large.thumbnail) == (128, 96)
    assert (damaged.label, damaged.thumbnail) == ("coat", None)
