"""A network small enough to export in a second."""

from __future__ import annotations

from torch import nn

from offramp.authoring.networks import EarlyExitNetwork
from offramp.authoring.networks.layers import pooled_linear


def tiny_network(num_classes: int = 4) -> EarlyExitNetwork:
    """Three blocks for 8 x 8 colour images, each with an EEC."""
    blocks = [
        nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()),
    ]
    return EarlyExitNetwork(
        blocks, {1: _eec(8, num_classes), 2: _eec(8, num_classes), 3: _eec(16, num_classes)}
    )


def _eec(channels: int, num_classes: int) -> nn.Sequential:
    eec = pooled_linear(channels, num_classes)
    linear = eec[-1]
    assert isinstance(linear, nn.Linear)
    # With random weights the confidences are all low; larger weights spread them out.
    linear.weight.data *= 8
    return eec
