"""B-LeNet: LeNet with one early exit after its first convolution.

Source: BranchyNet, Teerapittayanon et al. 2016, section IV. Their EEC is one convolution and a linear layer
on the full-size feature; ours works on a pooled one and costs a fifth, so leaving early saves more.
"""

from __future__ import annotations

from torch import nn

from offramp.authoring.networks.early_exit import EarlyExitNetwork
from offramp.authoring.networks.layers import conv_norm_relu


def b_lenet(num_classes: int = 10) -> EarlyExitNetwork:
    """LeNet for 28 x 28 grey images, with exits after block 1 and at the end."""
    block_1 = nn.Sequential(nn.Conv2d(1, 5, 5, padding=3), nn.ReLU(), nn.MaxPool2d(2))
    block_2 = nn.Sequential(
        nn.Conv2d(5, 10, 5, padding=3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(10, 20, 5, padding=3),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )
    eec_1 = nn.Sequential(
        nn.MaxPool2d(2),
        conv_norm_relu(5, 16, 3),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Flatten(),
        nn.Linear(16 * 4 * 4, num_classes),
    )
    classifier = nn.Sequential(
        nn.Flatten(), nn.Linear(20 * 5 * 5, 84), nn.ReLU(), nn.Dropout(0.2), nn.Linear(84, num_classes)
    )
    return EarlyExitNetwork([block_1, block_2], {1: eec_1, 2: classifier})
