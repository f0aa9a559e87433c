"""Early exits for a classifier that was not written for them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from offramp.authoring.backbones.attach import attach_exits
from offramp.authoring.backbones.in_training import StochasticDepth
from offramp.authoring.export import export_bundle
from offramp.authoring.networks import EarlyExitNetwork
from offramp.authoring.networks.cost import network_cost
from offramp.authoring.networks.resnet import resnet
from offramp.authoring.networks.vit import b_vit
from offramp.bundle import Preprocessing
from offramp.errors import ConfigError
from tests.conftest import ROOT, SAMPLES

SHAPE = (3, 16, 16)


def conv(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


def plain() -> nn.Module:
    return nn.Sequential(
        *(conv(3, 8), nn.MaxPool2d(2), conv(8, 16), nn.Dropout(0.5), conv(16, 16), conv(16, 16)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)),
    )


class Computed(nn.Module):
    """A classifier whose forward is given; its layers are those of `plain`."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = plain()


class WithLogits(Computed):
    def forward(self, image_BCHW: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.layers(image_BCHW))


class InTuple(Computed):
    def forward(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        return self.layers(image_BCHW), image_BCHW


class Moody(Computed):
    def forward(self, image_BCHW: Tensor) -> Tensor:
        result: Tensor = self.layers(image_BCHW)
        if image_BCHW.sum() > 0:
            return -result
        return result


class LooksBack(Computed):
    """Every layer sees the image once more: no single tensor carries everything."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(3, 3, 3, padding=1) for _ in range(4)])
        self.last = nn.Linear(3 * 16 * 16, 4)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        feature = image_BCHW
        for layer in self.convs:
            feature = layer(feature) + image_BCHW
        logits_BK: Tensor = self.last((feature * image_BCHW).flatten(1))
        return logits_BK


class Wide(Computed):
    def forward(self, image_BCHW: Tensor) -> Tensor:
        return image_BCHW


def attach(
    model: nn.Module, shape: tuple[int, int, int] = SHAPE, exits: Sequence[float] = (0.25, 0.5)
) -> EarlyExitNetwork:
    torch.manual_seed(0)
    return attach_exits(model, image_shape=shape, exits=exits)


def check_same(model: nn.Module, shape: tuple[int, int, int] = SHAPE) -> None:
    network = attach(model, shape)
    assert network.origin is not None
    assert network.origin.difference <= 1e-5
    assert network.num_exits == 3
    assert all(logits_BK.shape[0] == 5 for logits_BK in network(torch.rand(5, *shape)))


@pytest.mark.parametrize("build", [plain, WithLogits, InTuple])
def test_the_last_exit_says_what_the_model_says(build: type[nn.Module]) -> None:
    check_same(build())


def test_residual_networks_are_cut_behind_a_whole_sum() -> None:
    check_same(nn.Sequential(resnet(20).blocks[0], resnet(20).eecs["1"]), (3, 32, 32))


def test_transformers_are_cut_between_layers_and_their_exits_average_over_tokens() -> None:
    network = b_vit()
    check_same(nn.Sequential(*network.blocks, network.eecs["3"]), (3, 32, 32))


def test_exits_sit_near_the_wished_shares_and_later_ones_cost_more() -> None:
    static = nn.Sequential(resnet(20).blocks[0], resnet(20).eecs["1"])
    network = attach(static, (3, 32, 32), (0.2, 0.4, 0.7))
    assert network.origin is not None
    shares = [cut.share for cut in network.origin.chosen]
    assert shares == pytest.approx((0.2, 0.4, 0.7), abs=0.07)
    cost = network_cost(network, (3, 32, 32))
    assert all(cost.eecs[n] <= 0.5 * cost.blocks[n + 1] for n in (1, 2, 3))
    assert cost.backbone == pytest.approx(network.origin.chosen[0].macs / shares[0])


def test_batch_norm_counts_in_training_and_not_in_inference() -> None:
    model = plain()
    network, image_BCHW = attach(model), torch.rand(6, *SHAPE)
    mean = network.state_dict()["blocks.0.batch_norm.running_mean"].clone()
    network.eval()(image_BCHW)
    assert torch.equal(mean, network.state_dict()["blocks.0.batch_norm.running_mean"])
    network.train()(image_BCHW)
    assert not torch.equal(mean, network.state_dict()["blocks.0.batch_norm.running_mean"])


def test_dropout_drops_in_training_only() -> None:
    network, image_BCHW = attach(plain()), torch.rand(6, *SHAPE)
    network.eval()
    assert torch.equal(network(image_BCHW)[-1], network(image_BCHW)[-1])
    for module in network.modules():
        module.training = isinstance(module, nn.Dropout)
    assert not torch.equal(network(image_BCHW)[-1], network(image_BCHW)[-1])


def test_the_blocks_share_the_weights_of_the_model() -> None:
    model = plain()
    network = attach(model)
    attached = {parameter.data_ptr() for parameter in network.parameters()}
    assert {parameter.data_ptr() for parameter in model.parameters()} <= attached
    network.train()(torch.rand(4, *SHAPE))[-1].sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_building_it_again_gives_the_same_places_and_names() -> None:
    first, second = attach(plain()), attach(plain())
    second.load_state_dict(first.state_dict())


def test_it_is_exported_like_any_other_network(tmp_path: Path) -> None:
    preprocessing = Preprocessing(height=16, width=16, mode="RGB", mean=(0.5,) * 3, std=(0.5,) * 3)
    bundle = export_bundle(
        attach(plain()), tmp_path / "b", name="own", labels="abcd", preprocessing=preprocessing, split_point=2
    )
    assert bundle.manifest.num_exits == 3


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (Moody, r"test_backbone.py:\d+, `if image_BCHW.sum\(\) > 0:`"),
        (LooksBack, "elsewhere more than one tensor is still needed, such as image"),
        (Wide, r"returns \(2, 3, 16, 16\), expected logits"),
    ],
)
def test_a_model_that_cannot_be_cut_is_told_where_and_why(build: type[nn.Module], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        attach(build())


def test_an_image_the_model_cannot_take_is_told_from_one_it_cannot_be_traced_with() -> None:
    with pytest.raises(ConfigError, match=r"fails on an image of shape \(1, 16, 16\)"):
        attach(plain(), (1, 16, 16))


@pytest.mark.parametrize("exits", [(), (0.5, 0.2), (0.0, 0.5), (0.5, 1.0), (0.3, 0.3)])
def test_shares_that_make_no_sense_are_refused(exits: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="rising shares"):
        attach(plain(), exits=exits)


@pytest.mark.parametrize(
    "architecture",
    ["ResNet", "ConvNeXt", "MobileNetV1", "MobileNetV2", "EfficientNet", "RegNet", "ViT", "DeiT", "Swin"],
)
def test_architectures_of_others_are_cut_without_a_difference(architecture: str) -> None:
    pytest.importorskip("transformers", reason="the architectures come from the package transformers")
    from benchmarks.backbones import ARCHITECTURES

    model = ARCHITECTURES[architecture]()
    network = attach_exits(model, image_shape=(3, 64, 64), num_classes=3)
    assert network.origin is not None
    assert network.origin.difference <= 1e-5
    assert [tuple(logits_BK.shape) for logits_BK in network(torch.rand(2, 3, 64, 64))] == [(2, 3)] * 3
    drops_paths = any(type(module).__name__ == "SwinDropPath" for module in model.modules())
    assert any(isinstance(module, StochasticDepth) for module in network.modules()) == drops_paths
    assert drops_paths == (architecture == "Swin")


@pytest.mark.training
def test_the_example_ends_in_a_bundle_that_serves(tmp_path: Path) -> None:
    script = ROOT / "examples" / "own_model.py"
    assert len(script.read_text().splitlines()) < 40
    few, made = tmp_path / "photos", tmp_path / "made"
    for folder in SAMPLES.iterdir():
        (few / folder.name).mkdir(parents=True)
        for photo in sorted(folder.iterdir())[:20]:
            shutil.copy(photo, few / folder.name)
    result = subprocess.run(
        [sys.executable, script, few, made, "--once", "--edge-port", "0", "--cloud-port", "0"],
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert result.returncode == 0, result.stderr
    assert "200 photos" in result.stderr + result.stdout
    assert ", 0 degraded" in result.stderr + result.stdout
