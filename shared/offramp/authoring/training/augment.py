"""Random changes of a normalised training batch: shift, mirror, blank and mix.

Shapes: B samples, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from offramp.authoring.recipes.recipe import Augmentation


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


def mix(image_BCHW: Tensor, class_B: Tensor, *, num_classes: int, alpha: float) -> tuple[Tensor, Tensor]:
    """Mix every image with another one of the batch, and their labels in the same shares.

    Args:
        image_BCHW: normalised pixels.
        class_B: class index of each image.
        num_classes: K.
        alpha: α > 0 of the Beta distribution that the shares come from.

    Returns:
        Images (B, C, H, W), and the shares of all classes in each (B, K).

    Source: mixup, Zhang et al. 2018; each pair draws its own share, as the code of the paper does not.
    """
    one = torch.ones(len(image_BCHW))
    share_B = torch.distributions.Beta(alpha * one, alpha * one).sample().to(image_BCHW.device)
    other_B = torch.randperm(len(image_BCHW)).to(image_BCHW.device)
    target_BK = functional.one_hot(class_B, num_classes).float()
    share_B1, share_B111 = share_B[:, None], share_B[:, None, None, None]
    mixed = share_B111 * image_BCHW + (1 - share_B111) * image_BCHW[other_B]
    return mixed.contiguous(memory_format=torch.channels_last), share_B1 * target_BK + (
        1 - share_B1
    ) * target_BK[other_B]


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
