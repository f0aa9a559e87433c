"""Architectures of others at a size for tests, with random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.backbones import of_architecture
from benchmarks.onnx_files import lively
from offramp import attach_exits_to_onnx
from offramp.authoring.networks import EarlyExitNetwork

SIDE = 32
SHAPE = (3, SIDE, SIDE)
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


def attached(path: Path, **options: Any) -> EarlyExitNetwork:
    torch.manual_seed(0)
    return attach_exits_to_onnx(path, **options)


def answers(path: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(path)
    found: NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: images})[0]
    return found


def noise(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(7).standard_normal((count, *SHAPE)).astype(np.float32)


def last_logits(network: EarlyExitNetwork, images: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.no_grad():
        found: NDArray[np.float32] = network(torch.from_numpy(images))[-1].numpy()
    return found
