"""Bundles in int8: another bundle with nearly the same answers, in less time where it was made."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from offramp.authoring.evaluation.predictions import predict_every_exit
from offramp.authoring.export import export_bundle
from offramp.authoring.guard.fitting import add_guards
from offramp.authoring.networks import EarlyExitNetwork
from offramp.authoring.networks.layers import pooled_linear
from offramp.authoring.quantising.graphs import Quantiser, Scale
from offramp.authoring.quantising.layers import choose_layers
from offramp.authoring.quantising.quantise import quantise
from offramp.bundle import Bundle, load_bundle, write_bundle
from offramp.bundle.precision import doubts_about
from offramp.engine.classifier import Classifier
from offramp.engine.runtime import load_blocks
from offramp.errors import BundleError, ConfigError
from tests.commands import check_refused, offramp, trained_on_noise
from tests.conftest import SAMPLES, with_thetas
from tests.nodes import png, predict, running_cloud, running_edge
from tests.tiny import COLOUR_8

LABELS = ("ant", "bee", "cat", "dog")


def wide_network() -> EarlyExitNetwork:
    """Three blocks of enough work that int8 pays, for 8 x 8 colour images."""

    def layers(*channels: int) -> nn.Sequential:
        pairs = itertools.pairwise(channels)
        return nn.Sequential(
            *(part for few, many in pairs for part in (nn.Conv2d(few, many, 3, padding=1), nn.ReLU()))
        )

    eecs = {number: pooled_linear(channels, 4) for number, channels in ((1, 64), (2, 128), (3, 128))}
    for eec in eecs.values():
        linear = eec[-1]
        assert isinstance(linear, nn.Linear)
        linear.weight.data *= 8
    return EarlyExitNetwork([layers(3, 64, 64), layers(64, 128, 128), layers(128, 256, 128)], eecs)


def photos(seed: int, count: int = 120) -> NDArray[np.uint8]:
    """Noise around a colour of its own."""
    generator = np.random.default_rng(seed)
    colours = generator.integers(40, 215, (count, 1, 1, 3))
    return (colours + generator.integers(-40, 41, (count, 8, 8, 3))).astype(np.uint8)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("wide") / "wide"
    return export_bundle(
        wide_network(), directory, name="wide", labels=LABELS, preprocessing=COLOUR_8, split_point=2
    )


@pytest.fixture(scope="module")
def in_int8(wide: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    found = quantise(wide, photos(1), photos(2), most_change=0.5, timed=False)
    assert [(chosen.layers, chosen.left) for chosen in found.chosen] == [(2, 0)] * 3
    written = write_bundle(tmp_path_factory.mktemp("int8") / "wide", found.manifest, found.graphs)
    return with_thetas(load_bundle(written.directory), (0.6, 0.6))


def test_its_answers_are_nearly_those_in_float32(wide: Bundle, in_int8: Bundle) -> None:
    pixels = photos(3)
    plain, found = predict_every_exit(wide, pixels), predict_every_exit(in_int8, pixels)
    same = plain.probabilities.argmax(axis=2) == found.probabilities.argmax(axis=2)
    assert same.mean() > 0.95
    assert np.abs(plain.confidence - found.confidence).mean() < 0.05


def test_it_is_another_bundle_whose_thresholds_have_to_be_chosen(wide: Bundle, in_int8: Bundle) -> None:
    manifest = quantise(wide, photos(1), photos(2), most_change=0.5, timed=False).manifest
    assert manifest.precision == "int8" and manifest.bundle_id.startswith("wide-int8-")
    assert [point.name for point in manifest.operating_points] == ["full"]
    assert manifest.operating_point.thetas == (1, 1)


def test_layers_that_are_slower_in_int8_here_stay_in_float32(wide: Bundle) -> None:
    chosen = choose_layers(
        wide.graphs[3], [photos_feature(wide, 2)], photos_feature(wide, 2), None, most_change=0.5
    )
    assert chosen.left == 0 or chosen.us <= 1.5 * chosen.float_us


async def test_its_features_travel_as_levels_and_tiers_answer_as_one_process(in_int8: Bundle) -> None:
    features = [block.feature for block in in_int8.manifest.blocks[:-1]]
    assert all(feature and feature.dtype == "uint8" for feature in features)
    everywhere = Classifier(in_int8)
    async with (
        running_cloud(in_int8) as address,
        running_edge(in_int8, upstream=address, payload="feature") as edge,
    ):
        for pixels in photos(4, 12):
            answer = await predict(edge, png(pixels))
            here = everywhere.classify(png(pixels))
            assert answer["confidence"] == pytest.approx(here.confidence, abs=0)
            assert answer["exit"]["number"] == here.exit_number
            assert not answer["degraded"]


def test_a_feature_in_int8_enters_the_next_block_with_its_scale(wide: Bundle, tmp_path: Path) -> None:
    batches = [photos(1)]
    first = Quantiser(wide.graphs[1], batches, None, folder(tmp_path, 1)).quantised(())
    assert first.handed_on is not None
    feature = run(first.graph, photos(1))["feature"]
    assert feature.dtype == np.uint8
    quantiser = Quantiser(wide.graphs[2], [feature], first.handed_on, folder(tmp_path, 2))
    made = onnx.load_from_string(quantiser.quantised(()).graph)
    taking = [node for node in made.graph.node if "batch" in node.input]
    assert [node.op_type for node in taking] == ["DequantizeLinear"], "levels are not turned into others"
    floating = run(quantiser.floating(), feature)
    plain = run(wide.graphs[2], first.handed_on.values(feature))
    np.testing.assert_allclose(floating["confidence"], plain["confidence"], atol=1e-5)


def test_a_layer_may_stay_in_float32(wide: Bundle, tmp_path: Path) -> None:
    quantiser = Quantiser(wide.graphs[2], [photos_feature(wide)], None, tmp_path)
    assert len(quantiser.layers) == 2, "the exit's last layer is not asked about"
    kept = onnx.load_from_string(quantiser.quantised(quantiser.layers[:1]).graph)
    weights = {tensor.name: tensor.data_type for tensor in kept.graph.initializer if len(tensor.dims) == 4}
    assert sorted(weights.values()) == sorted([onnx.TensorProto.FLOAT, onnx.TensorProto.INT8])


def test_layers_that_harm_stay_in_float32(wide: Bundle) -> None:
    given = photos_feature(wide)
    chosen = choose_layers(wide.graphs[2], [given], given, None, most_change=1e-9)
    assert chosen.left == chosen.layers and chosen.handed_on is None and chosen.change == 0
    plain, found = run(wide.graphs[2], given), run(chosen.graph, given)
    np.testing.assert_allclose(found["confidence"], plain["confidence"], atol=1e-6)


def test_a_block_without_layers_for_int8_stays_as_it_is() -> None:
    node = onnx.helper.make_node("Sqrt", ["batch"], ["feature"])
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["samples", 4])
        for name in ("batch", "feature")
    ]
    graph = onnx.helper.make_graph([node], "block", values[:1], values[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    given = np.ones((8, 4), np.float32)
    chosen = choose_layers(model.SerializeToString(), [given], given, None, most_change=0.1)
    assert (chosen.layers, chosen.left, chosen.handed_on) == (0, 0, None)
    levels = np.full((8, 4), 12, np.uint8)
    taken = Scale(step=0.5, zero_point=4)
    after = choose_layers(model.SerializeToString(), [levels], levels, taken, most_change=0.1)
    np.testing.assert_allclose(run(after.graph, levels)["feature"], 2)
    with pytest.raises(BundleError, match="is no number"):
        choose_layers(model.SerializeToString(), [-given], -given, None, most_change=0.1)


def test_a_guard_of_a_bundle_in_int8_changes_nothing_but_what_is_unfamiliar(in_int8: Bundle) -> None:
    found = add_guards(in_int8, photos(1, 200), photos(2, 200), false_alarms=0.05)
    guarded = Bundle(in_int8.directory, found.manifest, found.graphs)
    pixels = photos(3, 40)
    plain, after = predict_every_exit(in_int8, pixels), predict_every_exit(guarded, pixels)
    np.testing.assert_array_equal(after.probabilities, plain.probabilities)
    assert after.unfamiliar is not None and after.unfamiliar.any(axis=1).mean() < 0.3
    white = predict_every_exit(guarded, np.full((5, 8, 8, 3), 255, np.uint8))
    assert white.unfamiliar is not None and white.unfamiliar.any(axis=1).all()


def test_what_cannot_be_quantised_is_refused(wide: Bundle, in_int8: Bundle, tiny_bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match="int8 already"):
        quantise(in_int8, photos(1), photos(2), most_change=0.1)
    with pytest.raises(ConfigError, match="10 training photos to quantise with, expected at least 100"):
        quantise(wide, photos(1, 10), photos(2), most_change=0.1)
    guarded = add_guards(tiny_bundle, photos(1, 200), photos(2, 200), false_alarms=0.05)
    with pytest.raises(ConfigError, match="has guards"):
        quantise(
            Bundle(tiny_bundle.directory, guarded.manifest, guarded.graphs),
            photos(1),
            photos(2),
            most_change=0.1,
        )


def test_what_makes_answers_slower_or_different_here_is_said(
    in_int8: Bundle, wide: Bundle, tmp_path: Path
) -> None:
    without, with_vnni = tmp_path / "without", tmp_path / "with"
    without.write_text("flags\t\t: fpu sse4_2 avx avx2 fma\n")
    with_vnni.write_text("flags\t\t: fpu avx512f avx512_vnni\n")
    assert any("no instructions for int8" in doubt for doubt in doubts_about(in_int8.manifest, without))
    assert doubts_about(wide.manifest, without) == ()
    assert doubts_about(in_int8.manifest, with_vnni) == []
    assert doubts_about(in_int8.manifest, tmp_path / "none") == []


def test_the_kernels_for_processors_without_vnni_give_the_same_numbers(in_int8: Bundle) -> None:
    given: Any = photos(6, 40)
    for number in range(1, 4):
        fast, careful = (run(in_int8.graphs[number], given, careful=each) for each in (False, True))
        for name, values in fast.items():
            np.testing.assert_array_equal(careful[name], values)
        given = fast.get("feature")


_ELSEWHERE = """
import sys, numpy as np
from pathlib import Path
import offramp.engine.runtime.onnx as runtime
from offramp.authoring.evaluation.predictions import predict_every_exit
from offramp.bundle import load_bundle
runtime.multiplies_int8 = lambda: sys.argv[4] == "True"
found = predict_every_exit(load_bundle(Path(sys.argv[1])), np.load(sys.argv[2]))
np.save(sys.argv[3], found.confidence)
"""


@pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="needs qemu-x86_64, of Debian's qemu-user")
def test_on_a_processor_without_vnni_answers_are_right(in_int8: Bundle, tmp_path: Path) -> None:
    pixels, found = tmp_path / "pixels.npy", tmp_path / "found.npy"
    np.save(pixels, photos(7, 12))
    expected = predict_every_exit(in_int8, photos(7, 12)).confidence
    close = {}
    for believes_in_vnni in (False, True):
        arguments = [str(in_int8.directory), str(pixels), str(found), str(believes_in_vnni)]
        command = ["qemu-x86_64", "-cpu", "Haswell-noTSX", os.path.realpath(sys.executable), "-c", _ELSEWHERE]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        subprocess.run([*command, *arguments], env=environment, check=True, capture_output=True, timeout=240)
        close[believes_in_vnni] = np.abs(np.load(found) - expected).max() < 1e-3
    assert close == {False: True, True: False}, "the fast kernels overflow there, so this shows something"


def test_a_block_answers_alike_alone_and_in_a_batch(in_int8: Bundle) -> None:
    batch: Any = photos(5, 6)
    for block in load_blocks(in_int8, 1, len(in_int8.manifest.blocks)):
        together = block.run(batch)
        alone = [block.run(batch[row : row + 1]) for row in range(len(batch))]
        assert together.confidence is not None
        np.testing.assert_allclose(
            together.confidence,
            np.concatenate([each.confidence for each in alone if each.confidence is not None]),
            atol=1e-5,
        )
        batch = together.feature


def test_a_bundle_is_quantised_calibrated_and_evaluated(tmp_path: Path) -> None:
    trained = trained_on_noise(tmp_path / "made")
    out, photos = tmp_path / "in-int8", trained / "photos"
    quantise = ("quantise", trained / "bundle", "--data", photos, "--out", out, "--all-layers")
    result = offramp(*quantise, "--most-change", "0.5")
    assert result.exit_code == 0, result.output
    assert "blocks in int8" in result.stderr and "quantised bundle-int8-" in result.stderr
    assert offramp("calibrate", out, "--data", photos).exit_code == 0
    result = offramp("evaluate", out, "--data", photos, "--part", "validation", "--json")
    assert result.exit_code == 0, result.output
    assert "computes in int8" in offramp("inspect", out).output
    manifest = load_bundle(out).manifest
    assert manifest.provenance is not None
    verbs = [command.split()[1] for command in manifest.provenance.commands]
    assert verbs == ["train", "export", "quantise", "calibrate"]
    check_refused(offramp("quantise", out, "--data", photos, "--out", tmp_path / "b"), "is in int8 already")
    check_refused(
        offramp("quantise", trained / "bundle", "--data", SAMPLES, "--out", tmp_path / "c"),
        "is not the data this network was trained on",
    )


def folder(parent: Path, number: int) -> Path:
    made = parent / str(number)
    made.mkdir()
    return made


def photos_feature(bundle: Bundle, block: int = 1) -> NDArray[np.float32]:
    given: NDArray[Any] = photos(1)
    for number in range(1, block + 1):
        given = run(bundle.graphs[number], given)["feature"]
    return given


def run(graph: bytes, inputs: NDArray[Any], *, careful: bool = False) -> dict[str, Any]:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", str(int(careful)))
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: inputs}), strict=True))
