"""Turns an ordinary torch classifier into an early-exit network: cut it, attach EECs, check that it answers the same.

Shapes: B samples, C channels, H x W pixels, T tokens, D width, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import nn

from offramp.authoring.networks.cost import count_macs
from offramp.authoring.networks.early_exit import EarlyExitNetwork
from offramp.authoring.networks.graph import BackboneGraph, Cut, Origin
from offramp.authoring.networks.layers import TokenMean, pooled_linear, separable_conv
from offramp.authoring.networks.tracing import LogitsOnly, trace_backbone
from offramp.errors import ConfigError

_TOLERANCE = 1e-5
_NEAR = 0.02  # share of the backbone's cost; cuts this close count as the same place
_LARGEST_SIDE = 8
_EEC_SHARE = 0.5  # an EEC costs at most this share of the block after it


def attach_exits(
    model: nn.Module, *, image_shape: tuple[int, int, int], exits: Sequence[float] = (0.25, 0.5)
) -> EarlyExitNetwork:
    """Cut an ordinary classifier into blocks and attach EECs, which you then train.

    A model can be cut where a single tensor carries everything. These places are found in torch.export's graph, so it
    does not matter how the model is written. The blocks share the model's weights and train like any module: batch
    norm and dropout obey `train()` and `eval()`. The network's `origin` records how it was cut.

    Args:
        model: normalised pixels (B, C, H, W) -> logits (B, K): a tensor, the first of a tuple, or `.logits`.
        image_shape: (C, H, W).
        exits: where to put the early exits, as rising shares of the backbone's cost between 0 and 1. Each goes to the
            nearest possible cut; if several are about as near, to the one with the smallest feature.

    Returns:
        A network whose last exit gives the model's logits to within 1e-5. Its EECs are untrained, and each costs at
        most half as much as the block after it.

    Raises:
        ConfigError: the model cannot be traced, or has too few places to cut; the message says where and why.
    """
    _check_shares(exits)
    graph = trace_backbone(model, image_shape)
    cuts = graph.cuts()
    if len(cuts) < len(exits):
        raise ConfigError(f"you asked for {len(exits)} exits, but {_where(graph, cuts)}; ask for fewer exits")
    chosen = _choose(cuts, exits)
    places = [graph.image, *(cut.node for cut in chosen), graph.logits]
    blocks = [graph.block(start, stop) for start, stop in pairwise(places)]
    # The last block ends in the backbone's own logits.
    eecs = {**_eecs_behind(graph, cuts, chosen), len(blocks): nn.Identity()}
    network = EarlyExitNetwork(blocks, eecs).eval()
    origin = Origin(image_shape, tuple(cuts), tuple(chosen), _difference(model, network, image_shape))
    if not origin.difference <= _TOLERANCE:
        raise ConfigError(
            f"the blocks together differ from the backbone by {origin.difference:.2e}, more than {_TOLERANCE:.0e}; "
            "check whether the backbone draws random numbers or keeps state between images"
        )
    network.origin = origin
    return network


def _check_shares(exits: Sequence[float]) -> None:
    if not exits or not all(0 < share < 1 for share in exits) or sorted(set(exits)) != list(exits):
        raise ConfigError(
            f"exits is {tuple(exits)}; give rising shares of the cost between 0 and 1, such as (0.25, 0.5)"
        )


def _where(graph: BackboneGraph, cuts: Sequence[Cut]) -> str:
    places = sorted({f"{cut.share:4.0%}".strip() for cut in cuts}, key=lambda text: float(text[:-1]))
    return (
        f"the backbone can only be cut at {', '.join(places) or 'no place'} of its cost; elsewhere more than one "
        f"tensor is still needed, such as {' and '.join(graph.crossing())}"
    )


def _choose(cuts: Sequence[Cut], exits: Sequence[float]) -> list[Cut]:
    chosen: list[Cut] = []
    for number, share in enumerate(exits):
        left = cuts[cuts.index(chosen[-1]) + 1 :] if chosen else cuts
        left = left[: len(left) - (len(exits) - number - 1)]  # leave one for each exit to come
        nearest = min(abs(cut.share - share) for cut in left)
        alike = [cut for cut in left if abs(cut.share - share) <= nearest + _NEAR]
        # The smallest feature is the cheapest to send; among equals, the last one includes the activation.
        chosen.append(min(reversed(alike), key=lambda cut: torch.Size(cut.feature_shape).numel()))
    return chosen


def _eecs_behind(graph: BackboneGraph, cuts: Sequence[Cut], chosen: Sequence[Cut]) -> dict[int, nn.Module]:
    """An EEC for every chosen cut, by the number of the block that ends there."""
    spent = [cut.macs for cut in chosen]
    eecs: dict[int, nn.Module] = {}
    for number, (cut, until) in enumerate(
        zip(chosen, [*spent[1:], sum(graph.macs.values())], strict=True), start=1
    ):
        macs = until - cut.macs
        eec = _sized_eec(cut, graph.num_classes, budget=_EEC_SHARE * macs)
        if eec is None:
            raise ConfigError(
                f"an exit at {cut.share:.0%} of the cost would not pay: only {macs} multiplications lie between it and "
                f"the next exit; {_where(graph, cuts)}; ask for exits further apart"
            )
        eecs[number] = eec
    return eecs


def _sized_eec(cut: Cut, num_classes: int, *, budget: float) -> nn.Module | None:
    """The largest EEC that costs at most `budget` multiplications, if there is one."""
    for eec in _eecs(cut.feature_shape, num_classes):
        if count_macs(eec, torch.zeros(1, *cut.feature_shape))[0] <= budget:
            return eec
    return None


def _eecs(shape: tuple[int, ...], num_classes: int) -> Iterator[nn.Module]:
    """EECs for a feature, from the largest to the smallest."""
    match shape:
        case (width,):
            yield nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, num_classes))
            yield nn.Linear(width, num_classes)
        case (_, width):
            yield TokenMean(width, num_classes, hidden=2 * width)
            yield TokenMean(width, num_classes)
        case (channels, height, _):
            for width, layers in (
                (max(4 * channels, 128), 3),
                (max(2 * channels, 64), 2),
                (channels, 1),
                (channels, 0),
            ):
                yield _convolutional(channels, height, width, layers, num_classes)
        case _:
            yield nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(shape).numel(), num_classes))


def _convolutional(channels: int, side: int, width: int, layers: int, num_classes: int) -> nn.Module:
    parts: list[nn.Module] = []
    while side > _LARGEST_SIDE:
        parts.append(nn.MaxPool2d(2))
        side //= 2
    for _ in range(layers):
        parts.append(separable_conv(channels, width))
        channels = width
    return nn.Sequential(*parts, pooled_linear(channels, num_classes))


def _difference(model: nn.Module, network: EarlyExitNetwork, image_shape: tuple[int, int, int]) -> float:
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    with torch.no_grad():
        for batch in (1, 3):
            image_BCHW = torch.randn(batch, *image_shape, generator=generator)
            expected = LogitsOnly(model)(image_BCHW)
            found = network.logits_at(image_BCHW, [network.num_exits])[network.num_exits]
            largest = max(largest, float((expected - found).abs().max()))
    return largest
