"""Recipes for both tasks: B-AlexNet's blocks, and a last exit that pools, which learns faster than one with dropout."""

from __future__ import annotations

from torch import nn

from benchmarks.tasks.data import LARGEST_ANGLE
from offramp.authoring.networks.alexnet import b_alexnet
from offramp.authoring.networks.early_exit import EarlyExitNetwork
from offramp.authoring.networks.layers import conv_norm_relu, pooled_linear
from offramp.authoring.recipes.recipe import Augmentation, Recipe
from offramp.bundle import Preprocessing
from offramp.bundle.task import Quantity, Task

_COLOUR_32 = Preprocessing(height=32, width=32, mode="RGB", mean=(0.5,) * 3, std=(0.25,) * 3)


def pooled_alexnet(num_outputs: int) -> EarlyExitNetwork:
    """B-AlexNet for 32 x 32 colour images, whose last exit is a convolution and a mean."""
    network = b_alexnet(num_outputs)
    last = nn.Sequential(conv_norm_relu(64, 256, 3), pooled_linear(256, num_outputs))
    return EarlyExitNetwork(list(network.blocks), {1: network.eecs["1"], 2: network.eecs["2"], 3: last})


GROCERIES = Recipe(
    build=pooled_alexnet,
    preprocessing=_COLOUR_32,
    task=Task(kind="multi_label"),
    exit_weights=(1, 1, 1),
    epochs=20,
    batch_size=32,
    learning_rate=0.03,
    augmentation=Augmentation(shift=4, mirror=True),
    split_point=3,
)
TURNED_DIGITS = GROCERIES.changed(
    task=Task(
        kind="regression",
        quantity=Quantity(name="angle", unit="degrees", low=-LARGEST_ANGLE, high=LARGEST_ANGLE, tolerance=10),
    ),
    epochs=9,
    batch_size=64,
    augmentation=Augmentation(shift=2),
    validation=1000,
)
