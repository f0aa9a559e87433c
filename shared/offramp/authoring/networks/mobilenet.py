"""B-MobileNet: inverted residuals for small images, with two early exits.

Source: MobileNetV2, Sandler et al. 2018, section 3.3; the strides are the usual ones for 32 x 32 images.
"""

from __future__ import annotations

from torch import Tensor, nn

from offramp.authoring.networks.early_exit import EarlyExitNetwork
from offramp.authoring.networks.layers import conv_norm_relu, pooled_linear, separable_conv

# Channels, blocks, stride of the first one; every block widens its input sixfold inside.
_STAGES = ((24, 2, 1), (32, 3, 2), (64, 3, 2), (96, 2, 1))
_WIDENING = 6


class InvertedResidual(nn.Module):
    """Widen by 1 x 1, filter each channel by 3 x 3, narrow by 1 x 1 without activation; shortcut if shapes agree."""

    def __init__(self, channels_in: int, channels_out: int, *, stride: int) -> None:
        super().__init__()
        wide = channels_in * _WIDENING
        self.layers = nn.Sequential(
            conv_norm_relu(channels_in, wide, 1),
            nn.Conv2d(wide, wide, 3, stride=stride, padding=1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU(),
            nn.Conv2d(wide, channels_out, 1, bias=False),
            nn.BatchNorm2d(channels_out),
        )
        self.has_shortcut = stride == 1 and channels_in == channels_out

    def forward(self, feature_BCHW: Tensor) -> Tensor:
        """Feature -> feature, at the block's width and stride."""
        filtered: Tensor = self.layers(feature_BCHW)
        return filtered + feature_BCHW if self.has_shortcut else filtered


def b_mobilenet(num_classes: int = 10) -> EarlyExitNetwork:
    """A MobileNet for 32 x 32 colour images, with exits after its first and second stage and at the end."""
    channels_in = 16
    stages = []
    for width, count, stride in _STAGES:
        layers = []
        for number in range(count):
            layers.append(InvertedResidual(channels_in, width, stride=1 if number else stride))
            channels_in = width
        stages.append(nn.Sequential(*layers))
    blocks = [
        nn.Sequential(conv_norm_relu(3, 16, 3), stages[0]),
        stages[1],
        nn.Sequential(stages[2], stages[3], conv_norm_relu(channels_in, 320, 1)),
    ]
    eec_1 = nn.Sequential(
        nn.MaxPool2d(2), separable_conv(24, 64), separable_conv(64, 128), pooled_linear(128, num_classes)
    )
    eec_2 = nn.Sequential(separable_conv(32, 128), separable_conv(128, 128), pooled_linear(128, num_classes))
    return EarlyExitNetwork(blocks, {1: eec_1, 2: eec_2, 3: pooled_linear(320, num_classes)})
