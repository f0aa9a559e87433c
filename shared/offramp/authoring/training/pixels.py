"""Random changes of pixels before they are normalised: crop, RandAugment and colour, by kornia.

Shapes: B samples, C channels, H x W pixels.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from offramp.authoring.recipes.recipe import Augmentation
from offramp.bundle.manifest import Preprocessing

_Change = Callable[[Tensor], Tensor]

_ASPECT = (3 / 4, 4 / 3)
_SHARING_A_DRAW = 8


class PixelChanges:
    """Changes a batch of pixels, with torch's seeded generator; it changes nothing if the recipe asks for nothing."""

    def __init__(self, augmentation: Augmentation, preprocessing: Preprocessing) -> None:
        """Prepare the changes.

        Args:
            augmentation: which ones.
            preprocessing: size and mode of the images.
        """
        self._changes: list[_Change] = []
        if not (augmentation.crop or augmentation.rand_augment or augmentation.colour):
            return
        kornia = _kornia()
        if augmentation.crop:
            self._changes.append(
                _crop(kornia, augmentation.crop, (preprocessing.height, preprocessing.width))
            )
        if augmentation.rand_augment:
            self._changes.append(_rand_augment(kornia, *augmentation.rand_augment))
        if augmentation.colour:
            share = augmentation.colour
            self._changes.append(kornia.ColorJitter(share, share, share, 0.0))

    def __call__(self, pixels_BHWC: Tensor) -> Tensor:
        """Pixels, uint8 or float from 0 to 255, to pixels of the same range."""
        if not self._changes:
            return pixels_BHWC
        # In lower precision, a rotated picture would be a coarse one.
        with torch.autocast(pixels_BHWC.device.type, enabled=False):
            channels = pixels_BHWC.shape[3]
            # RandAugment and saturation are about colours; a grey picture stays grey.
            image_BCHW = (pixels_BHWC.permute(0, 3, 1, 2).float() / 255).expand(-1, 3, -1, -1)
            for change in self._changes:
                image_BCHW = change(image_BCHW).clamp(0, 1)
            return (image_BCHW[:, :channels] * 255).permute(0, 2, 3, 1)


def _crop(kornia: ModuleType, shares: tuple[float, float], size: tuple[int, int]) -> _Change:
    """Cut a part out of each decoded image, and resize it to the whole."""
    change: _Change = kornia.RandomResizedCrop(size, scale=shares, ratio=_ASPECT, align_corners=False)
    return change


def _rand_augment(kornia: ModuleType, count: int, magnitude: float) -> _Change:
    drawn = kornia.auto.RandAugment(n=count, m=magnitude)
    # One draw of operations is for all images that it gets.
    return lambda image_BCHW: torch.cat([drawn(part) for part in image_BCHW.tensor_split(_draws(image_BCHW))])


def _draws(image_BCHW: Tensor) -> int:
    return -(-len(image_BCHW) // _SHARING_A_DRAW)


def _kornia() -> ModuleType:
    # Imported only here because it takes seconds.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import kornia.augmentation
        import kornia.augmentation.auto
    return kornia.augmentation
