"""The logits of a trained network for held-out images, before it is exported."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from offramp.authoring.data.labelled import LabelledImages
from offramp.authoring.data.photos import batches
from offramp.authoring.networks.early_exit import EarlyExitNetwork
from offramp.authoring.networks.normalise import Normalise
from offramp.authoring.recipes.recipe import RecipeValues


def logits_of(
    network: EarlyExitNetwork, images: LabelledImages, recipe: RecipeValues
) -> list[NDArray[np.float32]]:
    """Logits (N, K) of every exit, shallow to deep."""
    normalise, network = Normalise(recipe.preprocessing), network.eval()
    with torch.no_grad():
        found = [network(normalise(torch.from_numpy(pixels.copy()))) for pixels in batches(images.pixels)]
    return [torch.cat(of_exit).numpy() for of_exit in zip(*found, strict=True)]
