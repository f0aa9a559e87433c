"""Fits a bottleneck to the features it will get, and measures what it does to a trained network.

Shapes: N photos, B samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from offramp.authoring.data.labelled import LabelledImages
from offramp.authoring.networks.early_exit import EarlyExitNetwork
from offramp.authoring.networks.normalise import Normalise
from offramp.authoring.recipes.recipe import RecipeValues
from offramp.authoring.training.criteria import criterion_of

_PIXELS_AT_ONCE = 2**23
_FEATURES_AT_ONCE = 2**25  # values
_FEWEST, _MOST = 16, 1024  # photos that a bottleneck is fitted to


@dataclass(frozen=True)
class Narrowed:
    """What the last exit and the split were like before a bottleneck, and are with it.

    before, after: accuracy, 0 to 1; without labels, agreement with the network before. bytes_before, bytes_after: of
    one sample's feature, as float32 and as entropy-coded levels.
    """

    samples: int
    before: float
    after: float
    bytes_before: int
    bytes_after: float

    @property
    def drop(self) -> float:
        """Accuracy lost, in percentage points."""
        return 100 * (self.before - self.after)


def fit_bottleneck(network: EarlyExitNetwork, images: LabelledImages, recipe: RecipeValues) -> None:
    """Adapt the network's bottleneck to its features for some of these photos, evenly spaced."""
    bottleneck = network.bottleneck
    assert bottleneck is not None, "a run of this regime has one"
    fitting = _FEATURES_AT_ONCE // math.prod(bottleneck.feature_shape)
    count = min(len(images), max(_FEWEST, min(_MOST, fitting)))
    chosen = images.take(np.linspace(0, len(images) - 1, count).astype(np.int64))
    last = bottleneck.spec.split_point - 1
    network.eval()
    with torch.no_grad():
        features = [network.feature_behind(last, image_BCHW) for image_BCHW, _ in _batches(chosen, recipe)]
    bottleneck.fit(torch.cat(features))


def measure_bottleneck(
    original: EarlyExitNetwork,
    narrowed: EarlyExitNetwork,
    images: LabelledImages,
    recipe: RecipeValues,
    *,
    labelled: bool,
) -> Narrowed:
    """Compare a network with a bottleneck to the one that it was made from.

    Args:
        original: without the bottleneck.
        narrowed: with it.
        images: that neither was trained on.
        recipe: for the preprocessing.
        labelled: whether the classes of the images mean anything.
    """
    bottleneck = narrowed.bottleneck
    assert bottleneck is not None, "this compares a network with a bottleneck"
    last, split = original.num_exits, bottleneck.spec.split_point
    criterion = criterion_of(recipe)
    before = after = 0
    coded = 0.0
    original.eval()
    narrowed.eval()
    with torch.no_grad():
        for image_BCHW, target in _batches(images, recipe):
            feature = narrowed.feature_behind(split - 1, image_BCHW)
            coded += float(bottleneck.code_bytes(bottleneck.encode(feature)).sum())
            first_BK = original.logits_at(image_BCHW, [last])[last]
            second_BK = narrowed.logits_at(feature, [last], after=split - 1)[last]
            truth = target if labelled else criterion.said(first_BK)
            before += int(criterion.right(first_BK, truth).sum())
            after += int(criterion.right(second_BK, truth).sum())
    count = len(images)
    return Narrowed(
        samples=count,
        before=before / count,
        after=after / count,
        bytes_before=4 * math.prod(bottleneck.feature_shape),
        bytes_after=coded / count,
    )


def _batches(images: LabelledImages, recipe: RecipeValues) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised pixels (B, C, H, W) and truths (B, …)."""
    normalise = Normalise(recipe.preprocessing)
    batch = max(1, min(500, _PIXELS_AT_ONCE // math.prod(recipe.preprocessing.pixel_shape)))
    for start in range(0, len(images), batch):
        pixels = torch.from_numpy(np.asarray(images.pixels[start : start + batch]))
        yield normalise(pixels), torch.from_numpy(images.classes[start : start + batch])
