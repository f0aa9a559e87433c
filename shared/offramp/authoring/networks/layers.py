"""The few layers that our networks share.

Shapes: B samples, T tokens, D width, K classes.
"""

from __future__ import annotations

from torch import Tensor, nn


def conv_norm_relu(channels_in: int, channels_out: int, kernel: int, *, stride: int = 1) -> nn.Sequential:
    """Convolution that keeps the size (divided by the stride), batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )


def separable_conv(channels_in: int, channels_out: int) -> nn.Sequential:
    """A 3 x 3 convolution per channel, then a 1 x 1 convolution across them: far cheaper than doing both at once.

    Source: MobileNets, Howard et al. 2017, section 3.1.
    """
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_in, 3, padding=1, groups=channels_in, bias=False),
        nn.BatchNorm2d(channels_in),
        nn.Conv2d(channels_in, channels_out, 1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )


def pooled_linear(channels: int, num_classes: int) -> nn.Sequential:
    """Average over all positions, then one linear layer."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))


class TokenMean(nn.Module):
    """Normalise, average over the tokens, one hidden layer if asked for, then logits."""

    def __init__(self, width: int, num_classes: int, *, hidden: int = 0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        linear = nn.Linear(hidden or width, num_classes)
        self.layers = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), linear) if hidden else linear

    def forward(self, tokens_BTD: Tensor) -> Tensor:
        """Tokens -> logits (B, K)."""
        logits_BK: Tensor = self.layers(self.norm(tokens_BTD).mean(dim=1))
        return logits_BK
