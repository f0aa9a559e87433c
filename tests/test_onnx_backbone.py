"""An ONNX file is cut as it is: the blocks together answer as the file does, and only exits learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from benchmarks.onnx_files import written
from offramp import attach_exits
from offramp.authoring.backbones.onnx.part import onnx_parts
from offramp.authoring.data import LabelledImages
from offramp.authoring.export import export_bundle
from offramp.authoring.networks import EarlyExitNetwork
from offramp.authoring.networks.bottleneck import Bottleneck, BottleneckSpec
from offramp.authoring.networks.cost import network_cost
from offramp.authoring.recipes import named
from offramp.authoring.recipes.recipe import Recipe
from offramp.authoring.training.run import load_network
from offramp.authoring.training.train import train
from offramp.bundle import Bundle, Preprocessing
from offramp.engine.classifier import Classifier
from offramp.engine.runtime import Runtime, load_blocks
from offramp.errors import ConfigError
from tests.onnx_files import ARCHITECTURES, SHAPE, SIDE, answers, attached, last_logits, noise, small
from tests.test_training import run_of

pytest.importorskip("transformers", reason="the architectures come from the package transformers")

COLOUR = Preprocessing(height=SIDE, width=SIDE, mode="RGB", mean=(0.5,) * 3, std=(0.25,) * 3)
RECIPE = "b-lenet-fashion"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every architecture as a file, by the older exporter; one by the newer one as well."""
    directory = tmp_path_factory.mktemp("onnx")
    made = {name: written(small(name), directory / f"{name}.onnx", shape=SHAPE) for name in ARCHITECTURES}
    made["ViT, dynamo"] = written(small("ViT"), directory / "ViT-dynamo.onnx", shape=SHAPE, dynamo=True)
    return made


@pytest.fixture(scope="module")
def bundles(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """A convolutional network in two blocks with a bottleneck, and a transformer whose parts are one block."""
    directory = tmp_path_factory.mktemp("bundles")
    narrowed = attached(files["ResNet"], exits=(0.5,))
    shape = network_cost(narrowed, SHAPE).feature_shapes[1]
    narrowed.bottleneck = Bottleneck(shape, BottleneckSpec(split_point=2, channels=2, levels=4))
    whole = attached(files["ViT"]).static()
    return {
        "ResNet": exported(narrowed, directory / "ResNet"),
        "ViT": exported(whole, directory / "ViT"),
    }


def models(network: EarlyExitNetwork) -> list[Any]:
    return [part.model for block in network.blocks for part in onnx_parts(block)]


def exported(network: EarlyExitNetwork, directory: Path) -> Bundle:
    return export_bundle(
        network, directory, name="own", labels=("a", "b", "c", "d"), preprocessing=COLOUR, split_point=2
    )


@pytest.mark.parametrize("name", [*ARCHITECTURES, "ViT, dynamo"])
def test_the_last_exit_says_what_the_file_says(files: dict[str, Path], name: str) -> None:
    network = attached(files[name])
    assert network.origin is not None and network.origin.difference <= 1e-5
    assert network.num_exits == 3
    expected = answers(files[name], noise(5))
    assert np.ptp(expected, axis=0).max() > 1e-2, "a network that says the same of every image proves nothing"
    np.testing.assert_allclose(last_logits(network, noise(5)), expected, atol=1e-5)


def test_a_file_costs_what_its_model_costs_and_is_cut_at_the_same_places(files: dict[str, Path]) -> None:
    from_file, from_model = attached(files["ConvNeXt"]), attach_exits(small("ConvNeXt"), image_shape=SHAPE)
    found, expected = (network_cost(network, SHAPE) for network in (from_file, from_model))
    assert found.backbone == expected.backbone == sum(found.blocks.values())
    assert found.feature_shapes == expected.feature_shapes


def test_attention_counts_as_multiplications(files: dict[str, Path]) -> None:
    tokens, width, hidden = (SIDE // 8) ** 2 + 1, 32, 64
    layer = tokens * width * (4 * width + 2 * tokens + 2 * hidden)
    patches = (tokens - 1) * width * 3 * 8 * 8
    assert network_cost(attached(files["ViT"]), SHAPE).backbone == patches + 3 * layer + width * 4


@pytest.mark.parametrize("runtime", ["onnx", "openvino", "torch"])
def test_its_bundle_answers_as_the_file_does_on_every_runtime(
    files: dict[str, Path], bundles: dict[str, Bundle], runtime: Runtime
) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)
    images = ((pixels.transpose(0, 3, 1, 2) / 255 - 0.5) / 0.25).astype(np.float32)
    expected = torch.from_numpy(answers(files["ViT"], images)).softmax(1).numpy()
    (block,) = load_blocks(bundles["ViT"], 1, 1, runtime=runtime)
    found = block.run(pixels).probabilities
    assert found is not None
    # OpenVINO computes in bfloat16 where the processor can.
    np.testing.assert_allclose(found, expected, atol=2e-2 if runtime == "openvino" else 1e-5)


def test_its_bundle_answers_a_photo(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    Image.new("RGB", (60, 40), "teal").save(tmp_path / "photo.png")
    said = Classifier(bundles["ResNet"]).classify((tmp_path / "photo.png").read_bytes())
    assert said.exit_number == 2 and said.label in "abcd"


def test_the_same_file_gives_the_same_blocks(files: dict[str, Path]) -> None:
    first, second = (models(attached(files["ViT"])) for _ in range(2))
    assert first == second


def test_no_path_of_the_machine_that_exported_the_file_is_left(files: dict[str, Path]) -> None:
    assert str(Path(torch.__file__).parent).encode() in files["ViT, dynamo"].read_bytes()
    for model in models(attached(files["ViT, dynamo"])):
        assert b".py" not in model.SerializeToString()


def test_the_exits_learn_in_a_run_which_is_rebuilt_from_the_file(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(named.RECIPES, RECIPE, recipe_for(files["ResNet"]))
    run = run_of(photos(), regime="distill", learning_rate=0.05)
    train(photos(), run, tmp_path / "run")
    trained, new = load_network(tmp_path / "run"), attached(files["ResNet"])
    assert all(key.startswith("eecs.") for key, _ in trained.named_parameters())
    with torch.no_grad():
        first, *_, last = trained(torch.from_numpy(noise(2)))
        untrained, *_, same = new.eval()(torch.from_numpy(noise(2)))
    assert not torch.allclose(first, untrained) and torch.equal(last, same)
    with pytest.raises(ConfigError, match="no longer the one"):
        attached(files["MobileNetV2"]).load_state_dict(new.state_dict(), strict=False)


@pytest.mark.parametrize(
    "changes", [{"regime": "joint"}, {"regime": "layer-wise"}, {"regime": "distill", "frozen": False}]
)
def test_a_regime_that_would_train_its_blocks_is_refused_before_anything_is_written(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    monkeypatch.setitem(named.RECIPES, RECIPE, recipe_for(files["ResNet"]))
    with pytest.raises(
        ConfigError, match=r"would train block 1, which comes from an ONNX file .* --regime exits or distill"
    ):
        train(photos(), run_of(photos(), **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def recipe_for(path: Path) -> Recipe:
    return named.RECIPES[RECIPE].changed(
        build=lambda _: attached(path),
        preprocessing=COLOUR,
        exit_weights=(1.0,) * 3,
        batch_size=16,
        is_trained=True,
    )


def photos(count: int = 92) -> LabelledImages:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
    return LabelledImages(pixels, generator.integers(0, 4, count), ("a", "b", "c", "d"), ("",) * count)


def test_a_bottleneck_between_its_blocks_is_exported_too(bundles: dict[str, Bundle]) -> None:
    first, second = load_blocks(bundles["ResNet"], 1, 2)
    code = first.run(np.zeros((2, SIDE, SIDE, 3), np.uint8)).feature
    assert code is not None and code.dtype == np.uint8 and code.max() < 4
    assert second.run(code).probabilities is not None


def test_the_backbone_alone_is_one_block(files: dict[str, Path], bundles: dict[str, Bundle]) -> None:
    network = attached(files["ViT"])
    (block,) = bundles["ViT"].manifest.blocks
    assert block.macs == network_cost(network, SHAPE).backbone


def test_a_new_last_layer_takes_the_place_of_the_file_s(files: dict[str, Path]) -> None:
    network = attached(files["ViT"], num_classes=7)
    assert [logits.shape for logits in network(torch.from_numpy(noise(2)))] == [(2, 7)] * 3
    loss = functional.cross_entropy(network(torch.from_numpy(noise(2)))[-1], torch.tensor([0, 6]))
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None for p in network.eecs["3"].parameters())


def test_a_gradient_through_its_blocks_is_refused(files: dict[str, Path]) -> None:
    network = attached(files["ResNet"])
    with pytest.raises(ConfigError, match="gradient cannot pass through a block from an ONNX file"):
        network(torch.from_numpy(noise(1)).requires_grad_())
