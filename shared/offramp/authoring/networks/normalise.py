"""Turns pixels into the input of the first convolution.

Shapes: B samples, H x W pixels, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from offramp.bundle.manifest import Preprocessing


class Normalise(nn.Module):
    """uint8 pixels (B, H, W, C), 0 to 255, to float32 (B, C, H, W): scaled to [0, 1], minus mean, over std."""

    scale: Tensor
    offset: Tensor

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        mean, std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
        self.register_buffer("scale", (1 / (255 * std))[:, None, None], persistent=False)
        self.register_buffer("offset", (-mean / std)[:, None, None], persistent=False)

    def forward(self, pixels_BHWC: Tensor) -> Tensor:
        """Normalise a batch."""
        # Channels first, in memory too: a runtime scales whole planes several times faster than pixels of three values,
        # and a network may view its image as rows. Not `contiguous`, which keeps the layout of a single channel.
        planes = pixels_BHWC.permute(0, 3, 1, 2).clone(memory_format=torch.contiguous_format)
        scaled: Tensor = planes.float() * self.scale + self.offset
        return scaled
