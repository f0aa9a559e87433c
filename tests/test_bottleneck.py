"""Bottlenecks: what is rounded, learned, exported and sent."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from offramp.authoring.evaluation.predictions import predict_every_exit
from offramp.authoring.export import export_bundle
from offramp.authoring.networks.bottleneck import Bottleneck, BottleneckSpec, spec_for
from offramp.authoring.networks.cost import network_cost
from offramp.authoring.training.losses import reconstruction_loss
from offramp.authoring.training.regimes import phases
from offramp.authoring.training.run import load_network
from offramp.bundle import Bundle, Preprocessing, load_bundle
from offramp.engine.payload import encode_pixels
from offramp.errors import ConfigError
from offramp.wire.levels import levels_per_byte
from tests.commands import check_refused, offramp
from tests.conftest import with_thetas
from tests.nodes import png, predict, running_cloud, running_edge
from tests.test_cli import trained  # noqa: F401 - a fixture
from tests.tiny import tiny_network

SHAPE = (8, 4, 4)


def features(count: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, *SHAPE, generator=generator).relu() * torch.arange(1, 9).view(1, 8, 1, 1)


def trained_on(feature: torch.Tensor, bottleneck: Bottleneck) -> Bottleneck:
    bottleneck.train()
    for _ in range(600):
        bottleneck(feature)
    return bottleneck.eval()


@pytest.mark.parametrize(
    "spec", [BottleneckSpec(split_point=2, channels=3, stride=2), BottleneckSpec(split_point=2)]
)
def test_a_feature_comes_through_as_it_does_over_the_wire(spec: BottleneckSpec) -> None:
    bottleneck, feature = Bottleneck(SHAPE, spec).eval(), features()
    with torch.no_grad():
        code = bottleneck.encode(feature)
        assert code.dtype == torch.uint8 and tuple(code.shape[1:]) == bottleneck.code_shape
        assert int(code.max()) < spec.levels
        torch.testing.assert_close(bottleneck(feature), bottleneck.decode(code))
        assert bottleneck.decode(code).shape == feature.shape


def test_a_gradient_passes_the_rounding() -> None:
    bottleneck = Bottleneck(SHAPE, BottleneckSpec(split_point=2, channels=3)).train()
    bottleneck(features()).square().sum().backward()
    for name, parameter in bottleneck.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@given(st.integers(2, 256))
def test_rounding_alone_is_off_by_half_a_step_at_most(levels: int) -> None:
    feature = features(8)
    bottleneck = Bottleneck(SHAPE, BottleneckSpec(split_point=2, levels=levels)).eval()
    bottleneck.low.fill_(0)
    bottleneck.high.copy_(feature.amax(dim=(0, 2, 3)).view(8, 1, 1))
    step = bottleneck.high / (levels - 1)
    assert bool(((bottleneck(feature) - feature).abs() <= step / 2 + 1e-5).all())


def test_the_range_and_the_frequencies_are_those_seen_in_training() -> None:
    feature = features()
    bottleneck = trained_on(feature, Bottleneck(SHAPE, BottleneckSpec(split_point=2, levels=4)))
    seen = torch.quantile(feature[:16].transpose(0, 1).flatten(1), 0.999, dim=1)
    torch.testing.assert_close(bottleneck.high.flatten(), seen, rtol=0.02, atol=0.02)
    found = torch.bincount(bottleneck.encode(feature).flatten().long(), minlength=4) / feature.numel()
    shares = torch.tensor(bottleneck.frequencies) / sum(bottleneck.frequencies)
    torch.testing.assert_close(shares, found, rtol=0.02, atol=0.005)


def test_a_level_that_never_came_can_still_be_sent() -> None:
    bottleneck = Bottleneck(SHAPE, BottleneckSpec(split_point=2, levels=4))
    bottleneck.counts.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
    assert bottleneck.frequencies == (65536, 1, 1, 1)


@pytest.mark.parametrize("shape", [(64, 8, 8), (32, 16, 16), (5, 15, 15), (16, 32, 32)])
@pytest.mark.parametrize("levels", [2, 3, 4, 16])
@pytest.mark.parametrize("max_bytes", [32, 128])
def test_as_many_channels_are_learned_as_the_bytes_hold(
    shape: tuple[int, int, int], levels: int, max_bytes: int
) -> None:
    spec = spec_for(shape, split_point=2, max_bytes=max_bytes, levels=levels)
    code = Bottleneck(shape, spec).code_shape
    taken = math.ceil(math.prod(code) / levels_per_byte(levels))
    assert taken <= max_bytes
    assert code[0] == 2 * shape[0] or max_bytes < taken + math.prod(code[1:]) / levels_per_byte(levels) + 1


def test_a_grid_is_fine_enough_for_the_channels_to_be_filled() -> None:
    assert spec_for((112, 14, 14), split_point=3, max_bytes=2800) == BottleneckSpec(
        split_point=3, channels=57, stride=1, levels=4
    )


def test_too_few_bytes_are_refused_with_how_many_would_do() -> None:
    with pytest.raises(
        ConfigError,
        match="3 bytes are too few for one channel of 4 levels on a feature of 8 x 8; give at least 4",
    ):
        spec_for((64, 8, 8), split_point=2, max_bytes=3)


def test_what_has_no_positions_can_only_be_rounded() -> None:
    with pytest.raises(ConfigError, match="needs channels, height and width"):
        spec_for((64,), split_point=2, max_bytes=50)


@pytest.fixture(scope="module")
def narrow_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny network with a bottleneck before block 2."""
    torch.manual_seed(0)
    network = tiny_network()
    network.bottleneck = Bottleneck((8, 4, 4), BottleneckSpec(split_point=2, channels=4, levels=16))
    bundle = export_bundle(
        network.eval(),
        tmp_path_factory.mktemp("bundles") / "narrow",
        name="narrow",
        labels=("ant", "bee", "cat", "dog"),
        preprocessing=Preprocessing(height=8, width=8, mode="RGB", mean=(0.5,) * 3, std=(0.25,) * 3),
        split_point=2,
    )
    return with_thetas(bundle, (0.81, 0.43))


def test_the_bundle_says_what_is_handed_over_and_what_it_costs(narrow_bundle: Bundle) -> None:
    manifest = narrow_bundle.manifest
    first, second, _ = manifest.blocks
    assert first.feature is not None and first.feature == second.input
    assert (first.feature.shape, first.feature.dtype) == ((4, 4, 4), "uint8")
    assert first.levels is not None and len(first.levels.frequencies) == 16
    assert manifest.operating_point.codec == "packed"
    plain = network_cost(tiny_network(), (3, 8, 8))
    assert manifest.backbone_macs == plain.backbone
    around = (8 * 8 + 8 * 4) * 16 + (4 * 8 + 8 * 8) * 16
    assert manifest.exit_macs[-1] == sum(plain.blocks.values()) + sum(plain.eecs.values()) + around


async def test_two_tiers_answer_as_one_process_would(narrow_bundle: Bundle) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    expected = predict_every_exit(narrow_bundle, pixels)
    taken = expected.against(np.zeros(40, np.int64)).exit_taken(narrow_bundle.manifest.operating_point.thetas)
    async with running_cloud(narrow_bundle) as cloud, running_edge(narrow_bundle, upstream=cloud) as client:
        answers = [await predict(client, png(image)) for image in pixels]
    assert [answer["exit"]["number"] - 1 for answer in answers] == taken.tolist()
    confidences = expected.confidence[np.arange(40), taken]
    assert [np.float32(answer["confidence"]) for answer in answers] == confidences.tolist()
    sent = {answer["sent"] for answer in answers}
    assert sent == {"nothing", "feature"}


async def test_a_photo_smaller_than_its_feature_is_sent_itself(tiny_bundle: Bundle) -> None:
    pixels = np.full((8, 8, 3), 90, dtype=np.uint8)
    pixels[3:, :5] = 200
    small, large = (
        encode_pixels(pixels, "exact"),
        png(np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)),
    )
    assert len(small) < 8 * 4 * 4 * 4 < len(large)
    never = {"thetas": [1.0, 1.0]}
    async with (
        running_cloud(tiny_bundle, blocks="1-3") as whole,
        running_cloud(tiny_bundle) as rest,
        running_edge(tiny_bundle, upstream=whole) as client,
        running_edge(tiny_bundle, upstream=rest) as other,
    ):
        await client.put("/v1/policy", json=never)
        await other.put("/v1/policy", json=never)
        files = [
            ("images", (f"{n}.png", image, "image/png")) for n, image in enumerate((small, large, small))
        ]
        found = (await client.post("/v1/predict", files=files)).json()["predictions"]
        features = (await other.post("/v1/predict", files=files)).json()["predictions"]
    assert [one["sent"] for one in found] == ["image", "pixels", "image"]
    assert [one["sent"] for one in features] == ["feature"] * 3
    assert [one["confidence"] for one in found] == pytest.approx(
        [one["confidence"] for one in features], abs=1e-6
    )
    assert [one["request_id"][-1] for one in found] == ["1", "2", "3"]


@pytest.mark.training
@pytest.mark.parametrize("narrow", [("--bytes", "40"), ("--bits", "4")])
def test_a_trained_network_is_compressed_from_its_split_on(
    trained: Path,  # noqa: F811
    tmp_path: Path,
    narrow: tuple[str, ...],
) -> None:
    run, bundle, data = tmp_path / "run", tmp_path / "bundle", trained / "photos"
    more = ("--epochs", "1", "--max-drop", "100", *narrow)
    result = offramp("compress", trained / "run", "--data", data, "--out", run, *more)
    assert result.exit_code == 0, result.output
    said = re.search(r"4,500 -> (\d+) bytes per sample; accuracy .* [\d.]+% -> [\d.]+%, on", result.output)
    assert said, result.output
    assert offramp("export", run, "--out", bundle).exit_code == 0
    assert offramp("calibrate", bundle, "--data", data, "--guarantee", "0.2").exit_code == 0
    before, after = load_bundle(trained / "bundle"), load_bundle(bundle)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 28, 28, 1), dtype=np.uint8)
    first, second = (predict_every_exit(one, pixels, payload="feature") for one in (before, after))
    np.testing.assert_array_equal(first.probabilities[:, 0], second.probabilities[:, 0])
    assert not np.array_equal(first.probabilities[:, 1], second.probabilities[:, 1])
    assert first.offloads and second.offloads
    assert second.offloads.payload_bytes.max() < first.offloads.payload_bytes.min() == 5 * 15 * 15 * 4
    assert second.offloads.payload_bytes.mean() == pytest.approx(int(said[1]), rel=0.3)
    found = offramp(
        "evaluate", str(bundle), "--data", str(data), "--part", "validation", "--thetas", "1", "--json"
    )
    report = json.loads(found.stdout)
    assert report["offload_bytes_mean"] == report["request_bytes_mean"] > report["payload_bytes_mean"] > 0
    again = offramp("compress", run, "--data", data, "--out", tmp_path / "more", *narrow)
    check_refused(again, "has a bottleneck already")


def learned(feature: torch.Tensor, *, channels: int = 4) -> float:
    """Reconstruction loss of a bottleneck that learned on these features as the first phase of `compress` does."""
    torch.manual_seed(0)
    bottleneck = Bottleneck(SHAPE, BottleneckSpec(split_point=2, channels=channels, levels=16))
    (phase, _) = phases("bottleneck", (1, 2), (1.0, 1.0), frozen=True, bottleneck=bottleneck.spec)
    bottleneck.fit(feature)
    optimizer = torch.optim.AdamW(bottleneck.parameters(), lr=phase.changes["learning_rate"])
    for _ in range(150):
        optimizer.zero_grad()
        torch.autograd.backward(reconstruction_loss(bottleneck(feature), feature))
        optimizer.step()
    return reconstruction_loss(bottleneck.eval()(feature), feature).item()


def mixed(*, scale: float, shift: float = 0.0) -> torch.Tensor:
    """Features (256, 8, 4, 4) that four numbers per position determine."""
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(256, 4, 4, 4, generator=generator)
    mixing = torch.randn(8, 4, generator=generator)
    return (torch.einsum("bchw,dc->bdhw", source, mixing) + shift) * scale


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.01, 20.0), (100.0, 0.0)])
def test_a_feature_of_any_sign_and_size_is_learned_about_as_well(scale: float, shift: float) -> None:
    assert learned(mixed(scale=scale, shift=shift)) < 0.15


def test_after_a_relu_the_decoder_gives_nothing_negative() -> None:
    bottleneck = Bottleneck(SHAPE, BottleneckSpec(split_point=2, channels=3))
    next(bottleneck.decoder[-2].parameters()).data *= 20
    bottleneck.fit(features())
    assert bottleneck.eval()(features()).min() == 0
    bottleneck.fit(mixed(scale=1.0))
    assert (bottleneck(mixed(scale=1.0)) < 0).float().mean() > 0.3


@pytest.mark.parametrize("scale", [0.01, 100.0])
def test_rounding_takes_its_range_from_the_feature_at_once(scale: float) -> None:
    feature = mixed(scale=scale)
    bottleneck = Bottleneck(SHAPE, BottleneckSpec(split_point=2, levels=16))
    bottleneck.fit(feature)
    assert reconstruction_loss(bottleneck.train()(feature), feature) < 0.02


@pytest.mark.training
def test_a_bottleneck_that_loses_too_much_is_an_error_but_stays_on_disk(
    trained: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    good, run, photos = tmp_path / "good", tmp_path / "run", trained / "photos"
    start = offramp(
        *("train", "b-lenet-fashion", "--data", photos, "--out", good, "--validation", "40", "--epochs", "15")
    )
    assert start.exit_code == 0, start.output
    found = offramp(
        *("compress", good, "--data", photos, "--out", run, "--bytes", "11", "--epochs", "1"),
        *("--learning-rate", "1e-9", "--features", tmp_path / "features"),
    )
    check_refused(found, "percentage points, more than --max-drop 5", f"the run is in {run}")
    assert load_network(run).bottleneck is not None
    assert {path.name.rpartition("-")[0] for path in (tmp_path / "features").glob("train-*")} == {
        "train-block-1",
        "train-teacher",
    }
