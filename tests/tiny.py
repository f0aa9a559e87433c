"""A network small enough to export in a second, and a run that trains it in less."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from offramp.authoring.data import LabelledImages
from offramp.authoring.networks import EarlyExitNetwork
from offramp.authoring.networks.layers import pooled_linear
from offramp.authoring.recipes.named import recipe_named
from offramp.authoring.recipes.recipe import Recipe
from offramp.authoring.training.regimes import RegimeName
from offramp.authoring.training.run import Run
from offramp.bundle import Preprocessing
from offramp.bundle.provenance import Data, Provenance, Split


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


TINY_NAME = "tiny"
COLOUR_8 = Preprocessing(height=8, width=8, mode="RGB", mean=(0.5,) * 3, std=(0.25,) * 3)
TINY = Recipe(build=tiny_network, preprocessing=COLOUR_8, exit_weights=(1, 1, 1), epochs=1, batch_size=16)


def noise(count: int = 48) -> LabelledImages:
    """Images of four classes, each somewhat brighter than the one before."""
    generator = np.random.default_rng(0)
    classes = generator.integers(0, 4, count)
    pixels = generator.integers(0, 120, (count, 8, 8, 3)) + 40 * classes[:, None, None, None]
    return LabelledImages(pixels.astype(np.uint8), classes, ("ant", "bee", "cat", "dog"), ("",) * count)


def tiny_run(images: LabelledImages, *, regime: RegimeName = "joint", **changes: Any) -> Run:
    """A run of the recipe `tiny`, which a test must have put into `RECIPES`; `changes` are the recipe's."""
    split = Split(seed=0, validation=16)
    data = Data(name="noise", samples=len(images), fingerprint=images.fingerprint(), split=split)
    recipe = recipe_named(TINY_NAME).values.changed(**changes)
    provenance = Provenance(
        commands=("train",), recipe=TINY_NAME, seed=0, epochs=recipe.epochs, data=data, versions={}
    )
    assert images.labels is not None
    return Run(labels=images.labels, provenance=provenance, recipe=recipe, regime=regime)
