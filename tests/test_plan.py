"""`offramp plan`: every split and payload on somebody's own photos and link."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from offramp.authoring.evaluation.predictions import predict_every_exit
from offramp.authoring.evaluation.report import report
from offramp.authoring.planning.link import LinkProfile
from offramp.authoring.planning.observed import Observed, observe
from offramp.authoring.planning.plan import Plan, plan
from offramp.authoring.planning.reveal import picture_of, reveal
from offramp.authoring.planning.rounding import Rounding
from offramp.authoring.planning.rows import Overhead, Row
from offramp.bundle import Bundle
from offramp.bundle.manifest import Tensor
from offramp.engine.images import decode_images
from offramp.errors import ConfigError, DataError
from offramp.wire.messages import request_bytes
from tests.commands import check_refused, offramp

LINK = LinkProfile(rate_mbit=8.0, delay_ms=10.0)  # a kilobyte takes a millisecond


@pytest.fixture(scope="module")
def photos() -> list[bytes]:
    """Coarse noise of 32 x 32 pixels: every photo is another one, and compresses a little."""
    pixels = (
        np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8).repeat(4, 1).repeat(4, 2)
    )
    return [_jpeg(each) for each in pixels]


def _jpeg(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


@pytest.fixture(scope="module")
def observed(tiny_bundle: Bundle, photos: list[bytes]) -> Observed:
    return observe(tiny_bundle, [partial(bytes, file) for file in photos], ["webp-20"])


@pytest.fixture(scope="module")
def thetas(observed: Observed) -> tuple[float, float]:
    """So that a third of the photos leaves at each exit, or nearly."""
    first, second = np.quantile(observed.answered.confidence[:, :2], 2 / 3, axis=0)
    return float(first), float(second)


@pytest.fixture(scope="module")
def planned(observed: Observed, thetas: tuple[float, float]) -> Plan:
    return plan(observed, thetas, LINK, overhead=Overhead(1.0, 2.0))


def row_of(planned: Plan, split_point: int | None, sent: str) -> Row:
    return next(row for row in planned.rows if (row.split_point, row.sent) == (split_point, sent))


@pytest.mark.parametrize(
    ("sent", "payload"),
    [
        ("smallest without loss", "exact"),
        ("feature, float32", "feature"),
        ("picture, webp-20", "webp-20"),
    ],
)
def test_what_can_be_served_has_the_bytes_and_the_answers_of_the_evaluation(
    tiny_bundle: Bundle,
    photos: list[bytes],
    planned: Plan,
    thetas: tuple[float, float],
    sent: str,
    payload: str,
) -> None:
    manifest = tiny_bundle.manifest
    split = manifest.operating_point.split_point
    pixels = decode_images(photos, manifest.preprocessing)
    sizes = np.array([len(file) for file in photos])
    found = predict_every_exit(tiny_bundle, pixels, file_bytes=sizes, payload=payload)
    full_N = predict_every_exit(tiny_bundle, pixels).said[:, -1]
    expected = report(
        manifest, found.against(full_N), thetas, split_point=split, name=None, offloads=found.offloads
    )
    row = row_of(planned, split, sent)
    assert row.offload_rate == pytest.approx(expected.offload_rate)
    assert row.request_bytes == pytest.approx(expected.request_bytes_mean)
    assert row.offload_bytes == pytest.approx(expected.offload_bytes_mean)
    assert row.accuracy == pytest.approx(expected.accuracy)


def test_latency_is_computing_coding_the_link_and_what_calls_cost(
    tiny_bundle: Bundle, observed: Observed
) -> None:
    found = plan(observed, (1.0, 1.0), LINK, overhead=Overhead(1.0, 2.0))
    row = row_of(found, 2, "feature, float32")
    feature = observed.features[2][""]
    up = request_bytes(tiny_bundle.manifest, 2, int(feature.num_bytes[0]))
    computing = (
        observed.block_ms.sum() + (observed.photo.decode_ms + feature.encode_ms + feature.decode_ms).mean()
    )
    down_ms = row.ms - computing - 3.0 - 20.0 - up / 1000
    assert row.ms == row.offload_ms
    assert 0 < down_ms < 0.5


def test_a_photo_that_is_run_again_costs_the_cloud_all_blocks_and_a_feature_only_the_rest(
    tiny_bundle: Bundle, planned: Plan, thetas: tuple[float, float]
) -> None:
    again, rest = row_of(planned, 3, "photo as it came"), row_of(planned, 3, "feature, float32")
    before = tiny_bundle.manifest.exit_macs[1]
    assert again.cloud_macs - rest.cloud_macs == pytest.approx(again.offload_rate * before)
    alone = row_of(planned, None, "photo, no edge")
    assert alone.offload_rate == 1.0 and alone.serve is None


def test_what_is_smallest_as_a_feature_counts_as_one(observed: Observed, thetas: tuple[float, float]) -> None:
    feature = observed.features[3][""]
    small = replace(feature, num_bytes=np.full(len(feature.num_bytes), 16))
    # An expected size that no picture comes near, as that of a bottleneck's code.
    narrow = observed.manifest.blocks[1].model_copy(update={"feature": Tensor(shape=(4,), dtype="float32")})
    blocks = (observed.manifest.blocks[0], narrow, *observed.manifest.blocks[2:])
    manifest = observed.manifest.model_copy(update={"blocks": blocks})
    found = plan(
        replace(observed, manifest=manifest, features={**observed.features, 3: {"": small}}), thetas, LINK
    )
    smallest, as_feature = row_of(found, 3, "smallest without loss"), row_of(found, 3, "feature, float32")
    assert smallest.request_bytes == as_feature.request_bytes > 0
    assert smallest.cloud_macs == as_feature.cloud_macs
    assert smallest.ms == pytest.approx(as_feature.ms)


def test_an_edge_on_its_own_sends_nothing_and_its_last_exit_answers(planned: Plan) -> None:
    row = row_of(planned, 2, "nothing")
    assert (row.offload_rate, row.request_bytes, row.offload_ms, row.cloud_macs) == (0.0, 0.0, None, 0.0)
    assert row.serve == "--blocks 1-1, without --upstream"


def test_the_best_is_the_best_of_those_that_are_accurate_enough_and_can_be_served(
    observed: Observed, thetas: tuple[float, float]
) -> None:
    for max_drop in (0.0, 100.0):
        found = plan(observed, thetas, LINK, max_drop=max_drop)
        exact = row_of(found, 2, "smallest without loss").accuracy
        allowed = [row for row in found.rows if row.serve and row.accuracy >= exact - max_drop / 100 - 1e-9]
        assert found.rows[found.best["fewest bytes"]].request_bytes == min(
            row.request_bytes for row in allowed
        )
        assert found.rows[found.best["shortest latency"]].ms == min(row.ms for row in allowed)
        assert found.rows[found.best["least work for the cloud"]].cloud_macs == min(
            row.cloud_macs for row in allowed
        )
    assert found.rows[found.best["fewest bytes"]].sent == "nothing"


def test_fewer_bits_take_fewer_bytes_and_stay_within_a_step(tiny_bundle: Bundle) -> None:
    rounding = Rounding.of(tiny_bundle.manifest.blocks[0])
    feature = np.random.default_rng(0).normal(size=(1, 8, 4, 4)).astype(np.float32)
    sizes = []
    for name, bits in {"float16": 11, "8 bits": 8, "4 bits": 4, "2 bits": 2}.items():
        num_bytes, arrived = rounding.sent(name, feature)
        sizes.append(num_bytes)
        assert np.abs(arrived - feature).max() <= np.ptp(feature) / (2**bits - 1) / 2 + 1e-3
    assert sizes == sorted(sizes, reverse=True)


def test_the_command_shows_a_table_for_each_link_and_warns_of_photos_that_are_too_small(
    tiny_bundle: Bundle, photos: list[bytes], tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, file in enumerate(photos[:6]):
        (folder / f"{number}.jpg").write_bytes(file)
    arguments = ("plan", tiny_bundle.directory, "--photos", folder, "--payload", "webp-20", "--thetas", "1,1")
    result = offramp(*arguments, "--link", "5mbit,40ms 1gbit,0ms", "--json")
    assert result.exit_code == 0, result.output
    slow, fast = (json.loads(line) for line in result.stdout.splitlines() if line.startswith("{"))
    assert (slow["rate_mbit"], slow["delay_ms"], slow["labelled"]) == (5.0, 40.0, False)
    assert all(one["ms"] >= other["ms"] for one, other in zip(slow["rows"], fast["rows"], strict=True))
    (folder / "0.jpg").write_bytes(_jpeg(np.zeros((6, 6, 3), np.uint8)))
    for number in range(1, 6):
        (folder / f"{number}.jpg").unlink()
    small = offramp(*arguments)
    assert small.exit_code == 0, small.output
    assert "all photos are smaller than 8 x 8" in small.output
    assert "picture, webp-20" in small.output and "fewest bytes: " in small.output
    assert "…" not in small.output


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--link", "0mbit,40ms"), "carries nothing"),
        (("--link", "5mbit,forty"), "write a number and one of ms, s"),
        (("--link", "fast"), "write a number and one of kbit, mbit, gbit"),
        (("--link", " "), "write a rate and a delay"),
        (("--payload", "exact"), "name lossy ones"),
        (("--payload", "gif-3"), "payload"),
        (("--point", "none"), "no operating point"),
    ],
)
def test_what_makes_no_plan_is_refused(
    tiny_bundle: Bundle, tmp_path: Path, more: tuple[str, ...], says: str
) -> None:
    (tmp_path / "a.jpg").write_bytes(_jpeg(np.zeros((8, 8, 3), np.uint8)))
    check_refused(offramp("plan", tiny_bundle.directory, "--photos", tmp_path, *more), says)


def test_a_photo_that_cannot_be_decoded_is_named(tiny_bundle: Bundle) -> None:
    with pytest.raises(DataError, match=r"photo 1 of 1: .* not an image"):
        observe(tiny_bundle, [lambda: b"no photo"], [])


def test_a_link_that_carries_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="carries nothing"):
        LinkProfile(rate_mbit=0.0, delay_ms=1.0)


def test_an_attack_sees_more_of_a_feature_than_of_noise_and_a_picture_needs_none(tiny_bundle: Bundle) -> None:
    generator = np.random.default_rng(0)
    blocks = generator.integers(0, 256, (40, 2, 2, 3), dtype=np.uint8).repeat(4, 1).repeat(4, 2)
    truth, found = reveal(tiny_bundle, blocks, ["webp-90"], steps=60)
    picture, first, second = found
    assert [one.split_point for one in found] == [None, 2, 3]
    assert picture.psnr > first.psnr > 12 and 0 < second.ssim < picture.ssim <= 1
    shown = Image.open(io.BytesIO(picture_of(truth, found)))
    assert shown.size == (4 * 96, 4 * 96)


def test_an_attack_needs_photos_to_learn_from(tiny_bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match="19 photos are too few to train an attack"):
        reveal(tiny_bundle, np.zeros((19, 8, 8, 3), np.uint8), [])


def test_the_command_writes_what_is_revealed(
    tiny_bundle: Bundle, photos: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offramp.cli.plan._ATTACK_STEPS", 3)
    for number, file in enumerate(photos):
        (tmp_path / f"{number}.jpg").write_bytes(file)
    picture = tmp_path / "revealed.png"
    arguments = ("plan", tiny_bundle.directory, "--photos", tmp_path, "--payload", "webp-20")
    result = offramp(*arguments, "--reveal", picture)
    assert result.exit_code == 0, result.output
    assert "feature, float32" in result.output and picture.stat().st_size > 0
    check_refused(offramp(*arguments, "--reveal", tmp_path / "none" / "a.png"), "is not a directory")
