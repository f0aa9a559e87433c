"""Recipes that only the gallery uses."""

from __future__ import annotations

from offramp.authoring.networks.efficientnet_lite import PREPROCESSING_BILINEAR
from offramp.authoring.recipes.named import RECIPES
from offramp.authoring.recipes.recipe import Augmentation

# Lite0 on fewer pixels, at about the cost of the early-exit network.
PIXELS_144 = PREPROCESSING_BILINEAR.model_copy(update={"height": 144, "width": 144, "resize_to": 165})

# For the first of B-ResNet-56's two trainings, from before its recipe dropped blanked squares.
B_RESNET56_BLANKED = RECIPES["b-resnet56-cifar10"].changed(
    epochs=40,
    weight_decay=5e-4,
    augmentation=Augmentation(shift=4, mirror=True, blank=8),
)
