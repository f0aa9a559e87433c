"""An ONNX file is cut as it is: the blocks together answer as the file does, and only exits learn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.onnx_files import written
from offramp import attach_exits, attach_exits_to_onnx
from offramp.authoring.data import LabelledImages
from offramp.authoring.export import export_bundle
from offramp.authoring.networks import EarlyExitNetwork, recipes
from offramp.authoring.networks.bottleneck import Bottleneck, BottleneckSpec
from offramp.authoring.networks.cost import network_cost
from offramp.authoring.networks.onnx_part import onnx_parts
from offramp.authoring.networks.recipes import Recipe
from offramp.authoring.training.run import load_network
from offramp.authoring.training.train import train
from offramp.bundle import Bundle, Preprocessing
from offramp.engine.classifier import Classifier
from offramp.engine.runtime import load_blocks
from offramp.errors import ConfigError
from tests.onnx_files import ARCHITECTURES, SIDE, small
from tests.test_training import run_of

pytest.importorskip("transformers", reason="the architectures come from the package transformers")

SHAPE = (3, SIDE, SIDE)
COLOUR = Preprocessing(height=SIDE, width=SIDE, mode="RGB", mean=(0.5,) * 3, std=(0.25,) * 3)
RECIPE = "b-lenet-fashion"


def plain(*last: nn.Module) -> nn.Sequential:
    """A chain of convolutions with two classes."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2), *last)


class ChannelsLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = plain()

    def forward(self, image_BHWC: Tensor) -> Tensor:
        logits_BK: Tensor = self.inner((image_BHWC / 2).permute(0, 3, 1, 2))
        return logits_BK


class WithHiddenState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = plain()

    def forward(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.inner[:6](image_BCHW)
        return hidden, self.inner[6:](hidden)


class OverTheBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = plain()

    def forward(self, image_BCHW: Tensor) -> Tensor:
        logits_BK: Tensor = self.inner(image_BCHW)
        return logits_BK - logits_BK.mean(dim=0, keepdim=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every architecture as a file, by the older exporter; one by the newer one as well."""
    directory = tmp_path_factory.mktemp("onnx")
    made = {name: written(small(name), directory / f"{name}.onnx", shape=SHAPE) for name in ARCHITECTURES}
    made["ViT, dynamo"] = written(small("ViT"), directory / "ViT-dynamo.onnx", shape=SHAPE, dynamo=True)
    return made


@pytest.fixture(scope="module")
def bundles(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """A convolutional network in three blocks, and a transformer whose parts are one block."""
    directory = tmp_path_factory.mktemp("bundles")
    whole = attached(files["ViT"]).static()
    return {
        "ResNet": exported(attached(files["ResNet"]), directory / "ResNet"),
        "ViT": exported(whole, directory / "ViT"),
    }


def attached(path: Path, **options: Any) -> EarlyExitNetwork:
    torch.manual_seed(0)
    return attach_exits_to_onnx(path, **options)


def models(network: EarlyExitNetwork) -> list[Any]:
    return [part.model for block in network.blocks for part in onnx_parts(block)]


def exported(network: EarlyExitNetwork, directory: Path) -> Bundle:
    return export_bundle(
        network, directory, name="own", labels=("a", "b", "c", "d"), preprocessing=COLOUR, split_point=2
    )


def answers(path: Path, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    session = onnxruntime.InferenceSession(path)
    found: np.ndarray[Any, Any] = session.run(None, {session.get_inputs()[0].name: images})[0]
    return found


def noise(count: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(7).standard_normal((count, *SHAPE)).astype(np.float32)


def last_logits(network: EarlyExitNetwork, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        found: np.ndarray[Any, Any] = network(torch.from_numpy(images))[-1].numpy()
    return found


@pytest.mark.parametrize("name", [*ARCHITECTURES, "ViT, dynamo"])
def test_the_last_exit_says_what_the_file_says(files: dict[str, Path], name: str) -> None:
    network = attached(files[name])
    assert network.origin is not None and network.origin.difference <= 1e-5
    assert network.num_exits == 3
    expected = answers(files[name], noise(5))
    assert np.ptp(expected, axis=0).max() > 1e-2, "a network that says the same of every image proves nothing"
    np.testing.assert_allclose(last_logits(network, noise(5)), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["ResNet", "EfficientNet"])
def test_a_file_costs_what_its_model_costs_and_is_cut_at_the_same_places(
    files: dict[str, Path], name: str
) -> None:
    from_file, from_model = attached(files[name]), attach_exits(small(name), image_shape=SHAPE)
    found, expected = (network_cost(network, SHAPE) for network in (from_file, from_model))
    assert found.backbone == expected.backbone == sum(found.blocks.values())
    assert found.feature_shapes == expected.feature_shapes
    assert found.eecs == expected.eecs


def test_attention_counts_as_multiplications(files: dict[str, Path]) -> None:
    tokens, width, hidden = (SIDE // 8) ** 2 + 1, 32, 64
    layer = tokens * width * (4 * width + 2 * tokens + 2 * hidden)
    patches = (tokens - 1) * width * 3 * 8 * 8
    assert network_cost(attached(files["ViT"]), SHAPE).backbone == patches + 3 * layer + width * 4


@pytest.mark.parametrize("name", ["ResNet", "ViT"])
def test_its_bundle_answers_as_the_file_does(
    files: dict[str, Path], bundles: dict[str, Bundle], name: str
) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)
    images = ((pixels.transpose(0, 3, 1, 2) / 255 - 0.5) / 0.25).astype(np.float32)
    logits = torch.from_numpy(answers(files[name], images))
    batch: Any = None
    for runtime in ("onnx", "openvino", "torch"):
        for block in load_blocks(bundles[name], 1, len(bundles[name].manifest.blocks), runtime=runtime):
            output = block.run(pixels if batch is None else batch)
            batch = output.feature
        assert output.probabilities is not None
        # OpenVINO computes in bfloat16 where the processor can.
        atol = 1e-5 if runtime == "onnx" else 2e-2
        np.testing.assert_allclose(output.probabilities, logits.softmax(1).numpy(), atol=atol)


def test_its_bundle_answers_a_photo(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    Image.new("RGB", (60, 40), "teal").save(tmp_path / "photo.png")
    said = Classifier(bundles["ResNet"]).classify((tmp_path / "photo.png").read_bytes())
    assert said.exit_number == 3 and said.label in "abcd"


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
    monkeypatch.setitem(recipes.RECIPES, RECIPE, recipe_for(files["ResNet"]))
    run = run_of(photos(), regime="distill", learning_rate=0.05)
    train(photos(), run, tmp_path / "run")
    trained, new = load_network(tmp_path / "run"), attached(files["ResNet"])
    assert set(trained.state_dict()) == {key for key in new.state_dict() if key.startswith("eecs.")}
    with torch.no_grad():
        first, *_, last = trained(torch.from_numpy(noise(2)))
        untrained, *_, same = new.eval()(torch.from_numpy(noise(2)))
    assert not torch.allclose(first, untrained) and torch.equal(last, same)


@pytest.mark.parametrize(
    "changes", [{"regime": "joint"}, {"regime": "layer-wise"}, {"regime": "distill", "frozen": False}]
)
def test_a_regime_that_would_train_its_blocks_is_refused_before_anything_is_written(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    monkeypatch.setitem(recipes.RECIPES, RECIPE, recipe_for(files["ResNet"]))
    with pytest.raises(
        ConfigError, match=r"would train block 1, which comes from an ONNX file .* --regime distill"
    ):
        train(photos(), run_of(photos(), **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def recipe_for(path: Path) -> Recipe:
    return replace(
        recipes.RECIPES[RECIPE],
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


def test_a_bottleneck_between_its_blocks_is_exported_too(files: dict[str, Path], tmp_path: Path) -> None:
    network = attached(files["ResNet"], exits=(0.5,))
    shape = network_cost(network, SHAPE).feature_shapes[1]
    network.bottleneck = Bottleneck(shape, BottleneckSpec(split_point=2, channels=2, levels=4))
    bundle = exported(network, tmp_path / "b")
    first, _ = load_blocks(bundle, 1, 2)
    code = first.run(np.zeros((2, SIDE, SIDE, 3), np.uint8)).feature
    assert code is not None and code.dtype == np.uint8 and code.max() < 4


def test_the_backbone_alone_is_one_block(files: dict[str, Path], bundles: dict[str, Bundle]) -> None:
    network = attached(files["ViT"])
    (block,) = bundles["ViT"].manifest.blocks
    assert block.macs == network_cost(network, SHAPE).backbone


def test_a_new_last_layer_takes_the_place_of_the_file_s(files: dict[str, Path]) -> None:
    network = attached(files["ViT"], num_classes=7)
    assert [logits.shape for logits in network(torch.from_numpy(noise(2)))] == [(2, 7)] * 3
    assert {key.split(".")[1] for key in network.state_dict()} == {"1", "2", "3"}
    loss = functional.cross_entropy(network(torch.from_numpy(noise(2)))[-1], torch.tensor([0, 6]))
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None for p in network.eecs["3"].parameters())


@pytest.mark.parametrize("opset", [9, 13])
def test_a_file_for_one_image_takes_any_number(tmp_path: Path, opset: int) -> None:
    path = written(plain(), tmp_path / "m.onnx", shape=SHAPE, open_sides=(), batch=1, opset=opset)
    expected = np.concatenate([answers(path, image[None]) for image in noise(4)])
    np.testing.assert_allclose(last_logits(attached(path), noise(4)), expected, atol=1e-5)


def test_a_transformer_for_one_image_takes_any_number(tmp_path: Path) -> None:
    path = written(small("ViT"), tmp_path / "m.onnx", shape=SHAPE, open_sides=(), batch=1)
    expected = np.concatenate([answers(path, image[None]) for image in noise(4)])
    np.testing.assert_allclose(last_logits(attached(path), noise(4)), expected, atol=1e-5)


def test_a_softmax_at_the_end_is_left_out(tmp_path: Path) -> None:
    path = written(plain(nn.Softmax(dim=1)), tmp_path / "m.onnx", shape=SHAPE)
    logits = torch.from_numpy(last_logits(attached(path), noise(3)))
    np.testing.assert_allclose(logits.softmax(1).numpy(), answers(path, noise(3)), atol=1e-6)
    assert not torch.allclose(logits.sum(1), torch.ones(3))


def test_a_file_with_the_channels_last_is_cut_for_channels_first(tmp_path: Path) -> None:
    path = written(ChannelsLast(), tmp_path / "m.onnx", shape=(SIDE, SIDE, 3))
    network = attached(path)
    assert network.origin is not None and network.origin.image_shape == SHAPE
    expected = answers(path, np.ascontiguousarray(noise(3).transpose(0, 2, 3, 1)))
    np.testing.assert_allclose(last_logits(network, noise(3)), expected, atol=1e-5)


def test_other_outputs_are_dropped(tmp_path: Path) -> None:
    path = written(WithHiddenState(), tmp_path / "m.onnx", shape=SHAPE)
    assert last_logits(attached(path), noise(3)).shape == (3, 2)


def test_a_file_for_images_of_any_size_is_told_which(files: dict[str, Path], tmp_path: Path) -> None:
    path = written(small("ResNet"), tmp_path / "m.onnx", shape=SHAPE, open_sides=(0, 2, 3))
    with pytest.raises(ConfigError, match="does not say how large its images are; give image_shape"):
        attached(path)
    network = attached(path, image_shape=SHAPE)
    np.testing.assert_allclose(last_logits(network, noise(2)), answers(files["ResNet"], noise(2)), atol=1e-5)
    with pytest.raises(ConfigError, match=r"shape \(3, 32, 32\), but image_shape is \(3, 64, 64\)"):
        attached(files["ResNet"], image_shape=(3, 64, 64))


def test_a_model_in_memory_is_not_changed(files: dict[str, Path]) -> None:
    model = onnx.load(files["ResNet"])
    before = model.SerializeToString()
    attach_exits_to_onnx(model)
    assert model.SerializeToString() == before


class Halves(nn.Module):
    def forward(self, image_BCHW: Tensor) -> Tensor:
        return image_BCHW.half().float().mean(dim=(2, 3))


@pytest.mark.parametrize(
    ("model", "options", "says"),
    [
        (plain(nn.Sigmoid()), {}, "ends in a sigmoid"),
        (plain()[:6], {}, r"returns .* float32 \(1, 8, 26, 26\), expected logits \(B, K\)"),
        (plain(), {"batch": 4, "open_sides": ()}, "takes exactly 4 images at a time"),
        (plain().half(), {}, "is float16, expected float32"),
        (Halves(), {}, "no convolution or linear layer"),
        (OverTheBatch(), {}, "in a batch of 3 and the same image alone"),
    ],
)
def test_a_file_that_cannot_be_cut_is_refused_in_a_line(
    tmp_path: Path, model: nn.Module, options: dict[str, Any], says: str
) -> None:
    path = written(model, tmp_path / "m.onnx", shape=SHAPE, **options)
    check_refused(path, says)


def check_refused(path: Path, says: str, **options: Any) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        attached(path, **options)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_none_or_lacks_a_part_is_refused_in_a_line(
    files: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "text.onnx").write_text("hello")
    check_refused(tmp_path / "text.onnx", "cannot be read as an ONNX file")
    check_refused(tmp_path / "none.onnx", "cannot be read as an ONNX file")
    model = onnx.load(files["ResNet"])
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    attached(tmp_path / "m.onnx")
    (tmp_path / "m.bin").unlink()
    check_refused(tmp_path / "m.onnx", "with the files of its weights beside it")
    model = onnx.load(files["ResNet"])
    del model.opset_import[:]
    onnx.save(model, tmp_path / "old.onnx")
    check_refused(tmp_path / "old.onnx", "no opset")
    second = onnx.load(files["ResNet"])
    second.graph.input.append(onnx.helper.make_tensor_value_info("mask", onnx.TensorProto.FLOAT, [1]))
    onnx.save(second, tmp_path / "two.onnx")
    check_refused(tmp_path / "two.onnx", r"2 inputs \(images, mask\)")
    check_refused(files["ResNet"], "would not pay|ask for fewer exits", exits=(0.1, 0.2, 0.995))


def test_a_gradient_through_its_blocks_is_refused(files: dict[str, Path]) -> None:
    network = attached(files["ResNet"])
    with pytest.raises(ConfigError, match="gradient cannot pass through a block from an ONNX file"):
        network(torch.from_numpy(noise(1)).requires_grad_())
