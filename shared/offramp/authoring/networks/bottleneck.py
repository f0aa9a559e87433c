"""A bottleneck makes a feature small before it goes to the next tier: few channels of few levels, and back.

The encoder and its rounding run at the end of the block before the split, the decoder at the start of the block
after it. So they are part of the network: every prediction, threshold and certificate includes their effect, wherever
the tiers are cut. Training rounds with a straight-through gradient (Bengio et al. 2013). The learned encoder follows
BottleNet++ (Shao and Zhang 2020), but rounds to whole levels instead of adding noise.

Shapes: B samples, C channels of a feature, M channels of a code, H x W positions, s stride.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor, nn

from offramp.errors import ConfigError
from offramp.record import Record
from offramp.wire.levels import levels_per_byte

_POSITIONS = 4  # side of the code's grid that a learned bottleneck aims at
_EXTREME = 0.999
_LEAST_SCALE = 1e-3  # of a typical channel's spread
_MEMORY = 0.99  # of the running statistics in training, as in a batch norm
_SEEN_AT_ONCE = 16  # samples of a batch that set the range of a plain quantiser
_SPREAD = 1.7  # sigmoid(1.7 x) is close to the normal CDF, so all levels are used about equally


class BottleneckSpec(Record):
    """Where a bottleneck sits and how narrow it is.

    channels: M, of a learned encoder; None keeps the channels and only rounds their values.
    """

    split_point: int = Field(ge=2, description="first block after it")
    channels: int | None = Field(default=None, ge=1)
    stride: int = Field(default=1, ge=1, description="s, in both directions")
    levels: int = Field(default=4, ge=2, le=256, description="levels that a value of the code can have")


def spec_for(
    feature_shape: tuple[int, ...], *, split_point: int, max_bytes: int, levels: int = 4
) -> BottleneckSpec:
    """The learned bottleneck whose code fits into `max_bytes`, on a grid of about 4 x 4 positions.

    The grid is finer where the code would otherwise have more than twice the channels of the feature, which the encoder
    could not fill.

    Raises:
        ConfigError: the feature does not have shape (C, H, W), or `max_bytes` is too small for any code.
    """
    if len(feature_shape) != 3:
        raise ConfigError(
            f"the feature before block {split_point} has shape {feature_shape}; a learned bottleneck needs channels, "
            "height and width; leave out --bytes to quantise the feature instead"
        )
    of_feature, height, width = feature_shape
    values = max_bytes * levels_per_byte(levels)

    def fitting(stride: int) -> int:
        return values // (-(-height // stride) * -(-width // stride))

    coarsest = max(1, min(height, width) // _POSITIONS)
    stride = next((each for each in range(coarsest, 1, -1) if fitting(each) <= 2 * of_feature), 1)
    if not fitting(stride):
        least = math.ceil(-(-height // stride) * -(-width // stride) / levels_per_byte(levels))
        raise ConfigError(
            f"{max_bytes} bytes are too few for one channel of {levels} levels on a feature of {height} x {width}; "
            f"give at least {least}"
        )
    channels = min(fitting(stride), 2 * of_feature)
    return BottleneckSpec(split_point=split_point, channels=channels, stride=stride, levels=levels)


class Bottleneck(nn.Module):
    """Encoder, rounding and decoder at one split point."""

    counts: Tensor
    low: Tensor
    high: Tensor
    mean: Tensor
    scale: Tensor
    floor: Tensor

    def __init__(self, feature_shape: tuple[int, ...], spec: BottleneckSpec) -> None:
        """Make an untrained bottleneck.

        Args:
            feature_shape: of one sample; (C, H, W) if channels are learned.
            spec: how narrow it is.
        """
        super().__init__()
        self.spec = spec
        self.feature_shape = feature_shape
        # How often each level was seen in training, for the entropy coder.
        self.register_buffer("counts", torch.full((spec.levels,), 1 / spec.levels))
        channels = (feature_shape[0], *(1 for _ in feature_shape[1:]))
        if spec.channels is None:
            self.register_buffer("low", torch.zeros(channels))
            self.register_buffer("high", torch.ones(channels))
        else:
            # Of each channel of the feature; `fit` measures them.
            self.register_buffer("mean", torch.zeros(channels))
            self.register_buffer("scale", torch.ones(channels))
            self.register_buffer("floor", torch.full(channels, torch.finfo(torch.float32).min))
            self.encoder, self.decoder = _learned(feature_shape, spec.channels, spec.stride)

    @property
    def code_shape(self) -> tuple[int, ...]:
        """Shape of one sample's code."""
        if self.spec.channels is None:
            return self.feature_shape
        _, height, width = self.feature_shape
        return self.spec.channels, -(-height // self.spec.stride), -(-width // self.spec.stride)

    @property
    def frequencies(self) -> tuple[int, ...]:
        """How often each level occurs, in 65,536ths; at least 1, so that every level can be sent."""
        shares = self.counts.double() / self.counts.double().sum()
        return tuple(max(1, round(share)) for share in (shares * 2**16).tolist())

    def fit(self, feature: Tensor) -> None:
        """Adapt to the size of a feature's values, before anything is learned.

        A learned bottleneck works on values with mean 0 and variance 1 in each channel, and its decoder never gives
        less than the least value of the channel: after a ReLU, 0. Plain rounding takes its range from here.

        Args:
            feature: of some hundred samples, (B, …).
        """
        by_channel = feature.float().transpose(0, 1).flatten(1)
        if self.spec.channels is None:
            low, high = self._range(feature)
            self.low.copy_(low)
            self.high.copy_(high)
            return
        # A channel that hardly changes would be blown up to noise.
        spread = by_channel.std(dim=1)
        least = spread.square().mean().sqrt().clamp(min=torch.finfo(torch.float32).tiny) * _LEAST_SCALE
        self.mean.copy_(by_channel.mean(dim=1).reshape(self.mean.shape))
        self.scale.copy_(spread.maximum(least).reshape(self.scale.shape))
        self.floor.copy_(by_channel.amin(dim=1).reshape(self.floor.shape))

    def forward(self, feature: Tensor) -> Tensor:
        """Feature -> what the next block receives, with a gradient."""
        unit = self._to_unit(feature)
        steps = self.spec.levels - 1
        rounded = (unit * steps).round() / steps
        if self.training:
            self._count(rounded.detach())
        return self._from_unit(unit + (rounded - unit).detach())

    def encode(self, feature: Tensor) -> Tensor:
        """Feature -> code, uint8 from 0 to levels - 1."""
        return (self._to_unit(feature) * (self.spec.levels - 1)).round().to(torch.uint8)

    def decode(self, code: Tensor) -> Tensor:
        """Code -> what the next block receives."""
        return self._from_unit(code.to(torch.float32) / (self.spec.levels - 1))

    def code_bytes(self, code: Tensor) -> Tensor:
        """Bytes (B,) of each sample's code, to within a few: entropy-coded or packed, whichever takes less."""
        shares = torch.tensor(self.frequencies, device=code.device).double()
        bits = -(shares / shares.sum()).log2()
        packed = math.ceil(math.prod(self.code_shape) / levels_per_byte(self.spec.levels))
        return (bits[code.long()].flatten(1).sum(dim=1) / 8).clamp(max=packed)

    def _to_unit(self, feature: Tensor) -> Tensor:
        if self.spec.channels is not None:
            return torch.sigmoid(self.encoder((feature - self.mean) / self.scale))
        if self.training:
            self._observe(feature.detach())
        return ((feature - self.low) / (self.high - self.low)).clamp(0.0, 1.0)

    def _from_unit(self, unit: Tensor) -> Tensor:
        if self.spec.channels is None:
            return self.low + unit * (self.high - self.low)
        _, height, width = self.feature_shape
        feature: Tensor = self.decoder(unit - 0.5)
        return torch.maximum(feature[:, :, :height, :width] * self.scale + self.mean, self.floor)

    def _observe(self, feature: Tensor) -> None:
        low, high = self._range(feature)
        self.low.mul_(_MEMORY).add_(low, alpha=1 - _MEMORY)
        self.high.mul_(_MEMORY).add_(high, alpha=1 - _MEMORY)

    def _range(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        # Clip the few extreme values that would stretch the range for all others.
        by_channel = feature[:_SEEN_AT_ONCE].float().transpose(0, 1).flatten(1)
        low = torch.quantile(by_channel, 1 - _EXTREME, dim=1)
        high = torch.quantile(by_channel, _EXTREME, dim=1)
        # A channel that never changes still needs a range to divide by.
        least = (high - low).amax().clamp(min=torch.finfo(torch.float32).eps) * _LEAST_SCALE
        return low.reshape(self.low.shape), torch.maximum(high, low + least).reshape(self.high.shape)

    def _count(self, rounded: Tensor) -> None:
        level = (rounded.float() * (self.spec.levels - 1)).round()
        found = torch.histc(level, bins=self.spec.levels, min=-0.5, max=self.spec.levels - 0.5)
        self.counts.mul_(_MEMORY).add_(found / level.numel(), alpha=1 - _MEMORY)


def _learned(
    feature_shape: tuple[int, ...], channels: int, stride: int
) -> tuple[nn.Sequential, nn.Sequential]:
    of_feature = feature_shape[0]
    # A pooling encoder looks at all it pools; one that keeps the positions has no use for their neighbours.
    kernel = stride + 1 if stride % 2 == 0 else stride
    norm = nn.BatchNorm2d(channels)
    nn.init.constant_(norm.weight, _SPREAD)
    encoder = nn.Sequential(
        nn.Conv2d(of_feature, of_feature, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(of_feature),
        nn.ReLU(),
        nn.Conv2d(of_feature, channels, 1, bias=False),
        norm,
    )
    decoder = nn.Sequential(
        nn.Conv2d(channels, of_feature, 1, bias=False),
        nn.BatchNorm2d(of_feature),
        nn.ReLU(),
        nn.Conv2d(of_feature, of_feature * stride**2, 1),
        nn.PixelShuffle(stride),
    )
    return encoder, decoder


class Encode(nn.Module):
    """The half of a bottleneck that runs before the split."""

    def __init__(self, bottleneck: Bottleneck) -> None:
        super().__init__()
        self.bottleneck = bottleneck

    def forward(self, feature: Tensor) -> Tensor:
        """Feature -> code."""
        return self.bottleneck.encode(feature)


class Decode(nn.Module):
    """The half of a bottleneck that runs after the split."""

    def __init__(self, bottleneck: Bottleneck) -> None:
        super().__init__()
        self.bottleneck = bottleneck

    def forward(self, code: Tensor) -> Tensor:
        """Code -> feature."""
        return self.bottleneck.decode(code)
