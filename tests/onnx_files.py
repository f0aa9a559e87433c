"""Architectures of others at a size for tests, with random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from benchmarks.backbones import of_architecture
from benchmarks.onnx_files import lively

SIDE = 32
_IMAGE: dict[str, Any] = {"image_size": SIDE, "num_labels": 4}
ARCHITECTURES: Mapping[str, Callable[[], nn.Module]] = {
    "ResNet": of_architecture(
        "ResNet", embedding_size=8, hidden_sizes=[16, 32, 48], depths=[1, 1, 1], num_labels=4
    ),
    "MobileNetV2": of_architecture("MobileNetV2", depth_multiplier=0.25, **_IMAGE),
    "ConvNeXt": of_architecture(
        "ConvNext",
        hidden_sizes=[8, 16, 32],
        num_stages=3,
        depths=[1, 1, 2],
        layer_scale_init_value=0.5,
        **_IMAGE,
    ),
    "ViT": of_architecture(
        "ViT",
        patch_size=8,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
        **_IMAGE,
    ),
    "EfficientNet": of_architecture(
        "EfficientNet", width_coefficient=0.25, depth_coefficient=0.25, hidden_dim=320, **_IMAGE
    ),
}


def small(architecture: str) -> nn.Module:
    """One of the architectures, with answers that differ by image."""
    torch.manual_seed(0)
    return lively(ARCHITECTURES[architecture](), SIDE)
