"""Guards: exits do not answer early what is unlike all they know, and whoever answers says so."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from offramp.authoring.evaluation.predictions import ExitPredictions, predict_every_exit
from offramp.authoring.guard.fitting import add_guards
from offramp.authoring.guard.gaussian import fit_gaussian, limit_for
from offramp.authoring.guard.graphs import watched
from offramp.bundle import Bundle, load_bundle, write_bundle
from offramp.engine.classifier import Classifier
from offramp.engine.runtime import Runtime, load_blocks
from offramp.errors import BundleError, ConfigError
from tests.conftest import ROOT, with_thetas
from tests.nodes import closed_port_address, png, predict, running_cloud, running_edge
from tests.test_metrics import figures_of, value
from tests.test_runtimes import needs

Pixels = NDArray[np.uint8]


def familiar(seed: int, count: int = 200) -> Pixels:
    """Noise, as dark or as bright as it likes."""
    generator = np.random.default_rng(seed)
    ceiling = generator.integers(20, 256, (count, 1, 1, 1))
    return (generator.random((count, 8, 8, 3)) * ceiling).astype(np.uint8)


def screens(count: int = 20) -> Pixels:
    """White, but for a few black letters."""
    pixels = np.full((count, 8, 8, 3), 255, dtype=np.uint8)
    pixels[:, 2:4, 1:5] = 0
    pixels[:, 6, np.arange(count) % 8] = 0
    return pixels


@pytest.fixture(scope="module")
def guarded(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle with guards, at the same θ as without."""
    found = add_guards(tiny_bundle, familiar(1), familiar(2), false_alarms=0.05)
    directory = tmp_path_factory.mktemp("guarded") / "tiny"
    return with_thetas(write_bundle(directory, found.manifest, found.graphs), (0.81, 0.43))


def share_found(predictions: ExitPredictions) -> float:
    assert predictions.unfamiliar is not None
    return float(predictions.unfamiliar.any(axis=1).mean())


def test_familiar_photos_are_rarely_and_strange_ones_always_unfamiliar(guarded: Bundle) -> None:
    assert share_found(predict_every_exit(guarded, familiar(3, 400))) <= 0.1
    assert share_found(predict_every_exit(guarded, screens())) == 1


def test_a_guard_takes_confidence_in_the_unfamiliar_and_changes_nothing_else(
    guarded: Bundle, tiny_bundle: Bundle
) -> None:
    pixels = np.concatenate([familiar(3, 40), screens()])
    plain, found = predict_every_exit(tiny_bundle, pixels), predict_every_exit(guarded, pixels)
    np.testing.assert_array_equal(found.probabilities, plain.probabilities)
    assert found.unfamiliar is not None and plain.unfamiliar is None
    np.testing.assert_array_equal(found.confidence, np.where(found.unfamiliar, 0, plain.confidence))
    assert not found.unfamiliar[:, -1].any(), "the last exit answers whatever comes, so it has no guard"


def test_an_unfamiliar_photo_leaves_early_only_where_theta_is_zero(guarded: Bundle) -> None:
    strange = png(screens()[0])
    for thetas, exit_number in (((1e-6, 1e-6), 3), ((1e-6, 0.0), 2), ((0.0, 0.0), 1)):
        found = Classifier(guarded, thetas=thetas).classify(strange)
        assert (found.exit_number, found.unfamiliar) == (exit_number, True)


def test_a_bundle_without_a_guard_does_not_say_what_is_familiar(tiny_bundle: Bundle) -> None:
    assert Classifier(tiny_bundle).classify(png(screens()[0])).unfamiliar is None


def test_the_new_bundle_has_an_id_of_its_own_and_never_stops_early(
    guarded: Bundle, tiny_bundle: Bundle
) -> None:
    found = add_guards(tiny_bundle, familiar(1), familiar(2), false_alarms=0.05).manifest
    assert found.bundle_id == guarded.manifest.bundle_id != tiny_bundle.manifest.bundle_id
    assert [(point.name, point.thetas) for point in found.operating_points] == [("full", (1.0, 1.0))]
    first, _, last = found.exits
    assert first.guard and last.guard is None
    assert first.macs == tiny_bundle.manifest.exits[0].macs + first.guard.macs


@pytest.mark.parametrize("runtime", ["openvino", "torch"])
def test_every_runtime_finds_the_same_samples_unfamiliar(guarded: Bundle, runtime: Runtime) -> None:
    pixels = np.concatenate([familiar(3, 20), screens()])
    expected = predict_every_exit(guarded, pixels).unfamiliar
    found = predict_every_exit(guarded, pixels, runtime=needs(runtime)).unfamiliar
    assert expected is not None and found is not None
    assert (found != expected).mean() <= 0.05, "bfloat16 may see a sample at the limit otherwise"


def test_a_guard_sees_the_feature_before_a_bottleneck_rounds_it() -> None:
    bundle = load_bundle(ROOT / "models" / "b-lenet-mnist-narrow")
    session = onnxruntime.InferenceSession(watched(bundle.graphs[1]))
    pixels = np.zeros((2, *bundle.manifest.preprocessing.pixel_shape), dtype=np.uint8)
    values = dict(
        zip(
            [output.name for output in session.get_outputs()],
            session.run(None, {"batch": pixels}),
            strict=True,
        )
    )
    assert values["feature"].dtype == np.uint8
    assert values["guard_seen"].dtype == np.float32 and values["guard_seen"].shape == (2, 10)


class TestTooLittleToGoBy:
    def test_ten_samples_are_refused_with_how_many_it_takes(self, tiny_bundle: Bundle) -> None:
        with pytest.raises(ConfigError, match=r"10 samples cannot .* 1.00% .* at least 99, .* hold out 198"):
            add_guards(tiny_bundle, familiar(1), familiar(2, 10), false_alarms=0.01)

    @pytest.mark.parametrize(("samples", "rank"), [(99, 99), (199, 198), (1000, 991)])
    def test_the_limit_is_the_conformal_quantile(self, samples: int, rank: int) -> None:
        assert limit_for(0.01, np.arange(1.0, samples + 1)) == rank

    def test_photos_that_are_all_the_same_are_refused(self, tiny_bundle: Bundle) -> None:
        same = np.zeros((100, 8, 8, 3), dtype=np.uint8)
        with pytest.raises(ConfigError, match="exit 1: its feature is the same for all photos"):
            add_guards(tiny_bundle, same, same, false_alarms=0.05)

    def test_a_number_that_never_changes_does_not_spoil_the_others(self) -> None:
        seen_ND = np.random.default_rng(0).normal(5, 2, (500, 3)).astype(np.float32)
        seen_ND[:, 1] = 7
        assert fit_gaussian(seen_ND).distances(seen_ND).mean() == pytest.approx(2, rel=0.01)


def test_a_second_guard_and_one_without_an_early_exit_are_refused(
    guarded: Bundle, exitless_bundle: Bundle
) -> None:
    for bundle, says in ((guarded, "has guards already"), (exitless_bundle, "has no early exit")):
        with pytest.raises(ConfigError, match=says):
            add_guards(bundle, familiar(1), familiar(2), false_alarms=0.05)


def test_a_graph_that_lost_its_guard_is_refused(guarded: Bundle, tiny_bundle: Bundle) -> None:
    swapped = Bundle(guarded.directory, guarded.manifest, {**guarded.graphs, 1: tiny_bundle.graphs[1]})
    with pytest.raises(BundleError, match=r"returns .* but the manifest says .*'distance'"):
        load_blocks(swapped, 1, 1)


class TestServed:
    async def test_an_answer_of_any_tier_says_what_an_earlier_one_found(self, guarded: Bundle) -> None:
        async with (
            running_cloud(guarded, blocks="3-3") as cloud,
            running_cloud(guarded, blocks="2-2", upstream=cloud, tier="gateway") as gateway,
            running_edge(guarded, upstream=gateway) as client,
        ):
            strange = [await predict(client, png(pixels)) for pixels in screens(4)]
            known = await predict(client, png(familiar(5)[0]))
            figures = await figures_of(client)
        assert all(answer["unfamiliar"] is True and answer["exit"]["tier"] == "cloud" for answer in strange)
        assert known["unfamiliar"] is False
        assert value(figures, "unfamiliar_total", exit="final") == 4

    async def test_a_lone_edge_says_it_too(self, guarded: Bundle) -> None:
        async with running_edge(guarded, upstream=closed_port_address()) as client:
            answer = await predict(client, png(screens()[0]))
        assert answer["degraded"] is True and answer["unfamiliar"] is True
        assert answer["confidence"] == 0

    async def test_without_a_guard_it_says_nothing(self, tiny_bundle: Bundle) -> None:
        async with running_edge(tiny_bundle, blocks="1-3") as client:
            assert (await predict(client, png(screens()[0])))["unfamiliar"] is None


def test_a_feature_that_is_not_a_number_is_unfamiliar(guarded: Bundle) -> None:
    block = load_blocks(guarded, 2, 2)[0]
    feature: Any = np.full((1, 8, 4, 4), np.nan, dtype=np.float32)
    assert block.run(feature).verdicts == [(0.0, True)]


def test_a_copy_on_disk_is_read_with_its_guards(guarded: Bundle, tmp_path: Path) -> None:
    shutil.copytree(guarded.directory, tmp_path / "copy")
    guard = load_bundle(tmp_path / "copy").manifest.exits[0].guard
    assert guard and (guard.false_alarms, guard.samples) == (0.05, 200)


def test_tokens_are_averaged_and_channels_kept() -> None:
    value = onnx.helper.make_tensor_value_info
    nodes = [
        onnx.helper.make_node("Relu", ["batch"], ["feature"]),
        onnx.helper.make_node("ReduceMax", ["feature"], ["probabilities"], keepdims=0),
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "block",
        [value("batch", onnx.TensorProto.FLOAT, ["samples", 5, 3])],
        [value("feature", onnx.TensorProto.FLOAT, ["samples", 5, 3]), value("probabilities", 1, [])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    session = onnxruntime.InferenceSession(watched(model.SerializeToString()))
    tokens_BTC = np.random.default_rng(0).random((2, 5, 3), dtype=np.float32)
    *_, seen_BD = session.run(None, {"batch": tokens_BTC})
    expected = [tokens_BTC.mean(axis=1), np.square(tokens_BTC).mean(axis=1) ** 0.25]
    np.testing.assert_allclose(seen_BD, np.concatenate(expected, axis=1), rtol=1e-5)
