"""ResNets for small images, and B-ResNet: the same with two early exits.

Sources: He et al. 2016, section 4.2 (6n + 2 layers: three stages of n residual blocks with 16, 32 and 64
channels); exits as in BranchyNet, Teerapittayanon et al. 2016. Unlike theirs, our EECs end with the resolution and
the width of the last stage: near the input, a feature sees too little of the image to be pooled directly.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from offramp.authoring.networks.early_exit import EarlyExitNetwork
from offramp.authoring.networks.layers import conv_norm_relu, pooled_linear

_WIDTHS = (16, 32, 64)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut, which is a 1 x 1 convolution where the shape changes."""

    def __init__(self, channels_in: int, channels_out: int, *, stride: int = 1) -> None:
        super().__init__()
        self.first = conv_norm_relu(channels_in, channels_out, 3, stride=stride)
        self.second = nn.Sequential(
            nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False), nn.BatchNorm2d(channels_out)
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False),
                nn.BatchNorm2d(channels_out),
            )

    def forward(self, feature_BCHW: Tensor) -> Tensor:
        """Feature -> feature, at the block's width and stride."""
        return functional.relu(self.second(self.first(feature_BCHW)) + self.shortcut(feature_BCHW))


def b_resnet(depth: int, num_classes: int = 10) -> EarlyExitNetwork:
    """ResNet of `depth` layers for 32 x 32 colour images, with exits early in stages 1 and 2 and at the end.

    Args:
        depth: 6n + 2; the paper has 20, 32, 56 and 110.
        num_classes: K.
    """
    layers = _residual_blocks(depth)
    per_stage = len(layers) // 3
    first = max(1, per_stage // 4)
    second = per_stage + max(1, per_stage // 3)
    stem = conv_norm_relu(3, _WIDTHS[0], 3)
    blocks = [
        nn.Sequential(stem, *layers[:first]),
        nn.Sequential(*layers[first:second]),
        nn.Sequential(*layers[second:]),
    ]
    eec_1 = nn.Sequential(
        ResidualBlock(16, 32, stride=2),
        ResidualBlock(32, 64, stride=2),
        ResidualBlock(64, 64),
        pooled_linear(64, num_classes),
    )
    eec_2 = nn.Sequential(ResidualBlock(32, 64, stride=2), pooled_linear(64, num_classes))
    return EarlyExitNetwork(blocks, {1: eec_1, 2: eec_2, 3: pooled_linear(64, num_classes)})


def resnet(depth: int, num_classes: int = 10, *, times: int = 1) -> EarlyExitNetwork:
    """The same network without early exits: one block, one classifier.

    Args:
        depth: 6n + 2.
        num_classes: K.
        times: how many times as wide as He et al. its stages are; a wide one teaches narrow ones well.
    """
    widths = [times * width for width in _WIDTHS]
    stem = conv_norm_relu(3, widths[0], 3)
    block = nn.Sequential(stem, *_residual_blocks(depth, widths))
    return EarlyExitNetwork([block], {1: pooled_linear(widths[-1], num_classes)})


def _residual_blocks(depth: int, widths: Sequence[int] = _WIDTHS) -> list[nn.Module]:
    assert (depth - 2) % 6 == 0, "three stages of n blocks of two layers each, stem and classifier"
    per_stage = (depth - 2) // 6
    layers: list[nn.Module] = []
    channels_in = widths[0]
    for stage, width in enumerate(widths):
        for number in range(per_stage):
            stride = 2 if stage and not number else 1
            layers.append(ResidualBlock(channels_in, width, stride=stride))
            channels_in = width
    return layers
