"""B-AlexNet: the CIFAR AlexNet with exits after its first and second convolution. GC-AlexNet has more exits.

Source: BranchyNet, Teerapittayanon et al. 2016, section IV. Batch norm stands in for local response
normalisation, and the EECs are separable convolutions, so that each costs less than the block after it.
"""

from __future__ import annotations

from torch import nn

from offramp.authoring.networks.early_exit import EarlyExitNetwork
from offramp.authoring.networks.layers import conv_norm_relu, pooled_linear, separable_conv


def b_alexnet(num_classes: int = 10) -> EarlyExitNetwork:
    """AlexNet for 32 x 32 colour images, with exits after blocks 1 and 2 and at the end."""
    block_1 = nn.Sequential(conv_norm_relu(3, 32, 5), nn.MaxPool2d(3, stride=2, padding=1))
    block_2 = nn.Sequential(conv_norm_relu(32, 64, 5), nn.MaxPool2d(3, stride=2, padding=1))
    block_3 = nn.Sequential(
        conv_norm_relu(64, 96, 3),
        conv_norm_relu(96, 96, 3),
        conv_norm_relu(96, 64, 3),
        nn.MaxPool2d(3, stride=2, padding=1),
    )
    eec_2 = nn.Sequential(
        separable_conv(64, 128),
        separable_conv(128, 128),
        nn.MaxPool2d(2),
        separable_conv(128, 192),
        pooled_linear(192, num_classes),
    )
    return EarlyExitNetwork(
        [block_1, block_2, block_3], {1: _first_eec(num_classes), 2: eec_2, 3: _classifier(num_classes)}
    )


def gc_alexnet(num_classes: int = 10) -> EarlyExitNetwork:
    """The same AlexNet with a gate after every convolution but the last, for thresholds found gate by gate.

    Gate-Classification networks put a small classifier after each convolution. Here every EEC costs less than
    the next convolution, so asking one more gate never costs more than going on.
    """
    blocks = [
        nn.Sequential(conv_norm_relu(3, 32, 5), nn.MaxPool2d(3, stride=2, padding=1)),
        nn.Sequential(conv_norm_relu(32, 64, 5), nn.MaxPool2d(3, stride=2, padding=1)),
        conv_norm_relu(64, 96, 3),
        conv_norm_relu(96, 96, 3),
        nn.Sequential(conv_norm_relu(96, 64, 3), nn.MaxPool2d(3, stride=2, padding=1)),
    ]
    gates = {
        1: _first_eec(num_classes),
        2: _gate(64, num_classes),
        3: _gate(96, num_classes),
        4: _gate(96, num_classes),
    }
    return EarlyExitNetwork(blocks, {**gates, 5: _classifier(num_classes)})


def _first_eec(num_classes: int) -> nn.Sequential:
    return nn.Sequential(
        separable_conv(32, 64),
        nn.MaxPool2d(2),
        separable_conv(64, 128),
        separable_conv(128, 128),
        nn.MaxPool2d(2),
        separable_conv(128, 192),
        pooled_linear(192, num_classes),
    )


def _gate(channels: int, num_classes: int) -> nn.Sequential:
    return nn.Sequential(
        separable_conv(channels, 128),
        nn.MaxPool2d(2),
        separable_conv(128, 192),
        pooled_linear(192, num_classes),
    )


def _classifier(num_classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64 * 4 * 4, 256),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(256, 128),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(128, num_classes),
    )
