"""Recipes that only the gallery uses."""

from __future__ import annotations

from offramp.authoring.networks.efficientnet_lite import PREPROCESSING_BILINEAR

# Lite0 on fewer pixels, at about the cost of the early-exit network.
PIXELS_144 = PREPROCESSING_BILINEAR.model_copy(update={"height": 144, "width": 144, "resize_to": 165})
