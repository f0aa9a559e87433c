"""What an EEC is made of: copies of the backbone's later layers, or new ones where there are none to leave out."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from offramp.authoring.backbones.attach import attach_exits
from offramp.authoring.networks import EarlyExitNetwork
from offramp.authoring.networks.cost import count_macs
from offramp.authoring.networks.layers import conv_norm_relu
from offramp.errors import ConfigError
from tests.odd_models import SHAPE, Plain

WIDTHS = (8, 16, 32)


class Block(nn.Module):
    """A residual block, with its activation after the sum as in a ResNet, or without one as in a MobileNetV2."""

    def __init__(self, width: int, *, ends_in_relu: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(conv_norm_relu(width, width, 3), nn.Conv2d(width, width, 3, padding=1))
        self.end = nn.ReLU() if ends_in_relu else nn.Identity()

    def forward(self, feature: Tensor) -> Tensor:
        total: Tensor = self.end(feature + self.layers(feature))
        return total


class Residual(nn.Module):
    """Three stages of two residual blocks each; what is between two stages changes the shape."""

    def __init__(self, *, ends_in_relu: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = conv_norm_relu(3, WIDTHS[0], 3)
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(width, ends_in_relu=ends_in_relu) for _ in range(2))) for width in WIDTHS
        )
        self.between = nn.ModuleList(conv_norm_relu(a, b, 3, stride=2) for a, b in pairwise(WIDTHS))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTHS[-1], 5))

    def forward(self, image_BCHW: Tensor) -> Tensor:
        feature = self.stem(image_BCHW)
        for stage, after in zip(self.stages, [*self.between, nn.Identity()], strict=True):
            feature = after(stage(feature))
        logits_BK: Tensor = self.head(feature)
        return logits_BK


def attached(model: nn.Module, share: float, *, eec_share: float | None = None) -> EarlyExitNetwork:
    shares = None if eec_share is None else (eec_share,)
    return attach_exits(model.eval(), image_shape=SHAPE, exits=(share,), eec_shares=shares)


def eec_of(network: EarlyExitNetwork) -> nn.Sequential:
    eec = network.eecs["1"]
    assert isinstance(eec, nn.Sequential)
    return eec


def is_copied(eec: nn.Module) -> bool:
    return any(isinstance(part, torch.fx.GraphModule) for part in eec.children())


@pytest.mark.parametrize("ends_in_relu", [True, False])
def test_an_eec_leaves_out_residual_blocks_and_copies_what_is_between_them(*, ends_in_relu: bool) -> None:
    model = Residual(ends_in_relu=ends_in_relu)
    network = attached(model, 0.2, eec_share=0.2)
    feature = torch.rand(2, *SHAPE)
    with torch.no_grad():
        expected = feature = network.blocks[0](feature)
        for layers in model.between:
            expected = layers(expected)
        *copies, new = eec_of(network)
        found = nn.Sequential(*copies)(feature)
    torch.testing.assert_close(found, expected)
    assert new(found).shape == (2, 5)


def test_an_eec_copies_as_much_as_it_may_spend() -> None:
    model = Residual()
    eecs = [eec_of(attached(model, 0.2, eec_share=share)) for share in (0.9, 0.2, 0.06, 0.02)]
    copies = [sum(isinstance(part, torch.fx.GraphModule) for part in eec) for eec in eecs]
    assert copies == [3, 2, 1, 0]  # the first one ends with the backbone's last residual block
    costs = [count_macs(eec, torch.zeros(1, *WIDTHS[:1], *SHAPE[1:]))[0] for eec in eecs]
    assert costs == sorted(costs, reverse=True)


def test_copies_share_no_weights_with_the_backbone() -> None:
    network = attached(Residual(), 0.2, eec_share=0.3)
    own = {weight.data_ptr() for weight in network.blocks.parameters()}
    copied = list(eec_of(network).parameters())
    assert copied and not own & {weight.data_ptr() for weight in copied}
    network.train()
    assert all(weight.requires_grad for weight in copied)


@pytest.mark.parametrize("share", [0.2, 0.6])
def test_without_residual_blocks_an_eec_is_new(share: float) -> None:
    assert not is_copied(eec_of(attached(Plain(), share)))


def test_behind_the_last_stage_change_an_eec_keeps_one_residual_block() -> None:
    blocks = [Block(8, ends_in_relu=False) for _ in range(6)]
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    network = attached(
        nn.Sequential(conv_norm_relu(3, 8, 3), *blocks, *pooled, nn.Linear(8, 5)), 0.3, eec_share=0.3
    )
    *copies, _ = eec_of(network)
    feature = torch.rand(2, 8, *SHAPE[1:])
    with torch.no_grad():
        expected = nn.Sequential(blocks[-1], *pooled)(feature)
        torch.testing.assert_close(nn.Sequential(*copies)(feature), expected)


@pytest.mark.parametrize("shares", [(0.1,), (0.1, 0.1, 0.1), (0.1, 0.0), (0.1, 1.0)])
def test_shares_that_do_not_fit_the_exits_are_refused(shares: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match=r"eec_shares is .*; give one share .* for each of the 2 exits"):
        attach_exits(Residual().eval(), image_shape=SHAPE, exits=(0.2, 0.5), eec_shares=shares)


def test_a_share_too_small_for_any_eec_is_refused() -> None:
    with pytest.raises(ConfigError, match="allow costlier EECs"):
        attached(Residual(), 0.2, eec_share=1e-7)
