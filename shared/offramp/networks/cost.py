"""What a network costs: multiplications per sample, by block and by EEC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from offramp.networks.early_exit import EarlyExitNetwork


@dataclass(frozen=True)
class NetworkCost:
    """Multiplications for one sample, by block number and by the number of the block an EEC sits behind."""

    blocks: Mapping[int, int]
    eecs: Mapping[int, int]
    feature_shapes: Mapping[int, tuple[int, ...]]

    @property
    def backbone(self) -> int:
        """The network without its early exits."""
        return sum(self.blocks.values()) + self.eecs[max(self.eecs)]


def network_cost(network: EarlyExitNetwork, image_shape: tuple[int, int, int]) -> NetworkCost:
    """Count the multiplications of one sample of shape (C, H, W), by running it.

    Convolutions and linear layers count; a convolution costs n_in · s² · n_out · m², divided by its groups
    (s kernel side, m output side). Activations, pooling and batch norm, which fuses, do not.
    """
    was_training = network.training
    network.eval()
    feature = torch.zeros(1, *image_shape)
    blocks, eecs, shapes = {}, {}, {}
    with torch.no_grad():
        for number, block in enumerate(network.blocks, start=1):
            eec = network.eec_behind(number)
            blocks[number], feature = count_macs(block, feature)
            shapes[number] = tuple(feature.shape[1:])
            if eec is not None:
                eecs[number], _ = count_macs(eec, feature)
    network.train(was_training)
    return NetworkCost(blocks=blocks, eecs=eecs, feature_shapes=shapes)


def count_macs(module: nn.Module, feature: torch.Tensor) -> tuple[int, torch.Tensor]:
    """Run a module on a feature: its multiplications, and what it returns."""
    with FlopCounterMode(display=False) as counter:
        result = module(feature)
    # torch counts a multiplication and an addition as two operations.
    return counter.get_total_flops() // 2, result
