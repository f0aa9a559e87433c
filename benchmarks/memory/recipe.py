"""A network that computes next to nothing, so that memory is that of the photos."""

from __future__ import annotations

from torch import nn

from offramp.authoring.networks.early_exit import EarlyExitNetwork
from offramp.authoring.networks.layers import pooled_linear
from offramp.authoring.recipes.recipe import Recipe
from offramp.bundle import Preprocessing


def _network(num_classes: int) -> EarlyExitNetwork:
    blocks = [
        nn.Sequential(nn.Conv2d(3, 8, 7, stride=8, padding=3), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU()),
    ]
    return EarlyExitNetwork(blocks, {1: pooled_linear(8, num_classes), 2: pooled_linear(16, num_classes)})


SMALL = Recipe(
    build=_network,
    preprocessing=Preprocessing(height=224, width=224, mode="RGB", mean=(0.5,) * 3, std=(0.25,) * 3),
    exit_weights=(1.0, 1.0),
    epochs=1,
    batch_size=64,
    learning_rate=0.01,
    validation=1000,
)
