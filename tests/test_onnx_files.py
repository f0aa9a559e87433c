"""What ONNX files may look like: for one image or many, with a softmax or other outputs, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from benchmarks.onnx_files import written
from offramp import attach_exits_to_onnx
from offramp.errors import ConfigError
from tests.onnx_files import SHAPE, SIDE, answers, attached, last_logits, noise, small

pytest.importorskip("transformers", reason="the architectures come from the package transformers")


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
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ResNet as a file."""
    return written(small("ResNet"), tmp_path_factory.mktemp("onnx") / "resnet.onnx", shape=SHAPE)


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


def test_a_file_for_images_of_any_size_is_told_which(resnet: Path, tmp_path: Path) -> None:
    path = written(small("ResNet"), tmp_path / "m.onnx", shape=SHAPE, open_sides=(0, 2, 3))
    with pytest.raises(ConfigError, match="does not say how large its images are; give image_shape"):
        attached(path)
    network = attached(path, image_shape=SHAPE)
    np.testing.assert_allclose(last_logits(network, noise(2)), answers(resnet, noise(2)), atol=1e-5)
    with pytest.raises(ConfigError, match=r"shape \(3, 32, 32\), but image_shape is \(3, 64, 64\)"):
        attached(resnet, image_shape=(3, 64, 64))


def test_a_model_in_memory_is_not_changed(resnet: Path) -> None:
    model = onnx.load(resnet)
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


def test_a_file_that_is_none_or_lacks_a_part_is_refused_in_a_line(resnet: Path, tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("hello")
    check_refused(tmp_path / "text.onnx", "cannot be read as an ONNX file")
    check_refused(tmp_path / "none.onnx", "cannot be read as an ONNX file")
    model = onnx.load(resnet)
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    attached(tmp_path / "m.onnx")
    (tmp_path / "m.bin").unlink()
    check_refused(tmp_path / "m.onnx", "with the files of its weights beside it")
    model = onnx.load(resnet)
    del model.opset_import[:]
    onnx.save(model, tmp_path / "old.onnx")
    check_refused(tmp_path / "old.onnx", "no opset")
    second = onnx.load(resnet)
    second.graph.input.append(onnx.helper.make_tensor_value_info("mask", onnx.TensorProto.FLOAT, [1]))
    onnx.save(second, tmp_path / "two.onnx")
    check_refused(tmp_path / "two.onnx", r"2 inputs \(images, mask\)")
    check_refused(resnet, "would not pay|ask for fewer exits", exits=(0.1, 0.2, 0.995))
