"""B-ViT: a small vision transformer with two early exits.

Source: Dosovitskiy et al. 2021, figure 1, without the class token: the EECs and the classifier average over all
tokens, so a feature is just the tokens. Shapes: T tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from offramp.authoring.networks.early_exit import EarlyExitNetwork
from offramp.authoring.networks.layers import TokenMean


class PatchTokens(nn.Module):
    """Image (B, C, H, W) to tokens (B, T, D): one linear layer on each patch, plus its position."""

    def __init__(self, width: int, *, image_side: int, patch_side: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch_side, stride=patch_side)
        self.places = nn.Parameter(torch.randn(1, (image_side // patch_side) ** 2, width) * 0.02)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Cut into patches."""
        tokens_BTD: Tensor = self.patches(image_BCHW).flatten(2).transpose(1, 2)
        return tokens_BTD + self.places


class EncoderLayer(nn.Module):
    """Attention between all tokens, then two linear layers on each, both normalised first and added to the input."""

    def __init__(self, width: int, *, heads: int = 4, dropout: float = 0.1) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.linear_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.mixed = nn.Linear(width, width)
        self.linear = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens_BTD: Tensor) -> Tensor:
        """Tokens -> tokens."""
        tokens_BTD = tokens_BTD + self.dropout(self.mixed(self._attend(self.attention_norm(tokens_BTD))))
        result_BTD: Tensor = tokens_BTD + self.dropout(self.linear(self.linear_norm(tokens_BTD)))
        return result_BTD

    def _attend(self, tokens_BTD: Tensor) -> Tensor:
        # Written out, not fused, so that the products are counted and exported like any other.
        batch, count, width = tokens_BTD.shape
        parts = self.queries_keys_values(tokens_BTD).reshape(batch, count, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        weights = torch.softmax(query @ key.transpose(2, 3) / (width // self.heads) ** 0.5, dim=-1)
        mixture_BTD: Tensor = (weights @ value).transpose(1, 2).reshape(batch, count, width)
        return mixture_BTD


def b_vit(num_classes: int = 10, *, width: int = 128, depth: int = 6) -> EarlyExitNetwork:
    """A vision transformer for 32 x 32 colour images in 4 x 4 patches, with exits after each third."""
    layers = [EncoderLayer(width) for _ in range(depth)]
    third = depth // 3
    blocks = [
        nn.Sequential(PatchTokens(width, image_side=32, patch_side=4), *layers[:third]),
        nn.Sequential(*layers[third : 2 * third]),
        nn.Sequential(*layers[2 * third :]),
    ]
    eecs = {number: TokenMean(width, num_classes, hidden=2 * width) for number in (1, 2)}
    return EarlyExitNetwork(blocks, {**eecs, 3: TokenMean(width, num_classes)})
