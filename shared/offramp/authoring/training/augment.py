"""Random changes of a training batch: shift, mirror and blank.

Shapes: B samples, C channels, H x W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from offramp.authoring.networks.recipe import Augmentation


def augment(image_BCHW: Tensor, augmentation: Augmentation) -> Tensor:
    """Change every image of the batch independently, using torch's seeded generator."""
    if augmentation.mirror:
        flipped = torch.rand(len(image_BCHW), 1, 1, 1, device=image_BCHW.device) < 0.5
        image_BCHW = torch.where(flipped, image_BCHW.flip(3), image_BCHW)
    if augmentation.shift:
        image_BCHW = _shift(image_BCHW, augmentation.shift)
    if augmentation.blank:
        image_BCHW = _blank(image_BCHW, augmentation.blank)
    return image_BCHW.contiguous(memory_format=torch.channels_last)


def _shift(image_BCHW: Tensor, reach: int) -> Tensor:
    batch, _, height, width = image_BCHW.shape
    padded = functional.pad(image_BCHW, [reach] * 4, mode="replicate").permute(0, 2, 3, 1)
    device = image_BCHW.device
    top_B, left_B = (torch.randint(0, 2 * reach + 1, (batch, 1), device=device) for _ in range(2))
    row_BH1 = (top_B + torch.arange(height, device=device))[:, :, None]
    column_B1W = (left_B + torch.arange(width, device=device))[:, None, :]
    return padded[torch.arange(batch, device=device)[:, None, None], row_BH1, column_B1W].permute(0, 3, 1, 2)


def _blank(image_BCHW: Tensor, side: int) -> Tensor:
    # Cutout, DeVries and Taylor 2017: the square may extend past the border.
    batch, _, height, width = image_BCHW.shape
    device = image_BCHW.device
    middle_y = torch.rand(batch, 1, device=device) * height
    middle_x = torch.rand(batch, 1, device=device) * width
    hit_y = (torch.arange(height, device=device) - middle_y).abs() < side / 2
    hit_x = (torch.arange(width, device=device) - middle_x).abs() < side / 2
    return image_BCHW.masked_fill((hit_y[:, None, :, None] & hit_x[:, None, None, :]), 0.0)
