"""What a network costs: multiplications per sample, by block and by EEC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from offramp.authoring.networks.bottleneck import Decode, Encode
from offramp.authoring.networks.early_exit import EarlyExitNetwork
from offramp.bundle.manifest import Layer, Part


@dataclass(frozen=True)
class NetworkCost:
    """Multiplications for one sample, by block number; an EEC has the number of the block it follows.

    blocks: including the halves of a bottleneck that run in them. layers: the same cost, layer by layer.
    feature_shapes: shape of what each block passes on, for one sample.
    """

    blocks: Mapping[int, int]
    eecs: Mapping[int, int]
    layers: Sequence[Layer]
    feature_shapes: Mapping[int, tuple[int, ...]]

    @property
    def backbone(self) -> int:
        """Multiplications of the network without early exits and bottleneck."""
        last = max(self.blocks)
        return sum(
            layer.macs
            for layer in self.layers
            if layer.part == "backbone" or (layer.part == "eec" and layer.block == last)
        )


def network_cost(network: EarlyExitNetwork, image_shape: tuple[int, int, int]) -> NetworkCost:
    """Count the multiplications of one sample of shape (C, H, W), by running it.

    Convolutions and linear layers count. A convolution costs n_in · s² · n_out · m², divided by its groups
    (s kernel side, m output side). Activations and pooling do not count, nor does batch norm, because it is fused.
    """
    was_training = network.training
    network.eval()
    feature = torch.zeros(1, *image_shape)
    blocks, eecs, shapes = {}, {}, {}
    layers: list[Layer] = []

    def counted(
        module: nn.Module, number: int, part: Part, feature: torch.Tensor
    ) -> tuple[int, torch.Tensor]:
        macs, by_layer, result = _count(module, feature)
        layers.extend(Layer(block=number, part=part, name=n, macs=m) for n, m in by_layer.items())
        return macs, result

    with torch.no_grad():
        for number, block in enumerate(network.blocks, start=1):
            arriving, leaving = network.bottleneck_behind(number - 1), network.bottleneck_behind(number)
            around = 0
            if arriving is not None:
                around, feature = counted(Decode(arriving), number, "bottleneck", feature)
            blocks[number], feature = counted(block, number, "backbone", feature)
            eec = network.eec_behind(number)
            if eec is not None:
                eecs[number], _ = counted(eec, number, "eec", feature)
            if leaving is not None:
                encoding, feature = counted(Encode(leaving), number, "bottleneck", feature)
                around += encoding
            blocks[number] += around
            shapes[number] = tuple(feature.shape[1:])
    network.train(was_training)
    return NetworkCost(blocks=blocks, eecs=eecs, layers=layers, feature_shapes=shapes)


def count_macs(module: nn.Module, feature: torch.Tensor) -> tuple[int, torch.Tensor]:
    """Run a module on a feature and return its multiplications and its output."""
    total, _, result = _count(module, feature)
    return total, result


def _count(module: nn.Module, feature: torch.Tensor) -> tuple[int, dict[str, int], torch.Tensor]:
    with FlopCounterMode(display=False) as counter:
        result = module(feature)
    # torch counts a multiplication and an addition as two operations, and a module's also under its parents.
    root = type(module).__name__
    totals = {
        path.removeprefix(root).removeprefix("."): sum(operations.values()) // 2
        for path, operations in counter.get_flop_counts().items()
        if path.startswith(root)
    }
    own = dict(totals)
    for name, macs in totals.items():
        around = [other for other in totals if other != name and (not other or name.startswith(f"{other}."))]
        if around:
            own[max(around, key=len)] -= macs
    by_layer = {name: macs for name, macs in own.items() if macs}
    # torch cannot look into a part of an ONNX file, which knows its cost.
    told = (getattr(part, "macs", None) for part in module.modules())
    from_file = {name: macs for each in told if isinstance(each, dict) for name, macs in each.items()}
    return counter.get_total_flops() // 2 + sum(from_file.values()), {**by_layer, **from_file}, result
