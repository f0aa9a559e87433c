"""EECs for the places where a backbone was cut, as large as what may be spent on them.

A backbone's last layers know best what tells the classes apart, and a residual backbone still works without many of
its blocks (Veit et al. 2016, section 4). So an EEC starts with a copy of the layers that follow its feature, without
the residual blocks between them, and learns from there.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from offramp.authoring.backbones.graph import Graph
from offramp.authoring.networks.cost import count_macs
from offramp.authoring.networks.early_exit import EarlyExitNetwork
from offramp.authoring.networks.layers import TokenMean, pooled_linear, separable_conv
from offramp.authoring.networks.origin import Cut
from offramp.errors import ConfigError

_LARGEST_SIDE = 8
_OF_BLOCK = 0.5  # unless asked for, an EEC costs at most this share of the block after it
_OF_BACKBONE = 0.1  # and this share of the backbone


def eecs_behind(
    graph: Graph,
    cuts: Sequence[Cut],
    chosen: Sequence[Cut],
    num_classes: int,
    shares: Sequence[float] | None,
    *,
    places: str,
) -> dict[int, nn.Module]:
    """An EEC for every chosen cut, by the number of the block that ends there.

    Args:
        graph: of the backbone.
        cuts: all places where it can be cut.
        chosen: the places where it is cut.
        num_classes: K.
        shares: the most that each EEC may cost, as shares of the backbone's cost.
        places: where the backbone can be cut, in words, for an error.

    Raises:
        ConfigError: no EEC is that cheap.
    """
    total = sum(graph.macs.values())
    after = [*(cut.macs for cut in chosen[1:]), total]
    eecs: dict[int, nn.Module] = {}
    for number, (cut, until) in enumerate(zip(chosen, after, strict=True), start=1):
        usual = min(_OF_BLOCK * (until - cut.macs), _OF_BACKBONE * total)
        budget = usual if shares is None else shares[number - 1] * total
        eec = _copied_eec(graph, cuts, cut, num_classes, budget) or _sized_eec(
            cut.feature_shape, num_classes, budget
        )
        if eec is None:
            raise ConfigError(
                f"an exit at {cut.share:.0%} of the cost would not pay: only {until - cut.macs} multiplications lie "
                f"between it and the next exit, and its EEC may cost {budget:.0f}; {places}; ask for exits further "
                "apart, or allow costlier EECs"
            )
        eecs[number] = eec
    return eecs


def eec_costs(network: EarlyExitNetwork) -> list[float]:
    """What each early exit's EEC costs, as a share of the backbone's cost; for a network that was cut from one."""
    assert network.origin is not None, "it was cut"
    return [
        count_macs(network.eecs[str(number)], torch.zeros(1, *cut.feature_shape))[0] * cut.share / cut.macs
        for number, cut in enumerate(network.origin.chosen, start=1)
    ]


@dataclass(frozen=True)
class LaterLayers:
    """Layers of a backbone that an EEC copies.

    parts: nodes where each part starts and stops; what lies between two parts is left out. macs: of all parts.
    feature_shape: of what they end in, without the batch.
    """

    parts: tuple[tuple[Any, Any], ...]
    macs: int
    feature_shape: tuple[int, ...]


def later_layers(graph: Graph, cuts: Sequence[Cut], cut: Cut) -> Iterator[LaterLayers]:
    """The layers that an EEC behind `cut` could copy, from few to many; none if there is nothing to leave out."""
    at, parts, macs, leaves_out = cuts.index(cut), [], 0, False
    while at < len(cuts) - 1:
        skipped = _without_residual_blocks(graph, cuts, at)
        stop = _next_residual_block(graph, cuts, skipped[-1])
        costly = [place for place in skipped if cuts[place].macs < cuts[stop].macs]
        if not costly:
            return
        start = costly[-1]
        leaves_out |= start > at
        parts.append((cuts[start].node, cuts[stop].node))
        macs += cuts[stop].macs - cuts[start].macs
        if leaves_out:
            yield LaterLayers(tuple(parts), macs, cuts[stop].feature_shape)
        at = stop


def _without_residual_blocks(graph: Graph, cuts: Sequence[Cut], at: int) -> list[int]:
    """The places from `at` on that residual blocks alone lead to, so that their shortcuts go straight there."""
    places = [at]
    for place in range(at, len(cuts) - 1):
        # Such as the activation after the sum.
        costs_nothing = cuts[place + 1].macs == cuts[place].macs and _starts_block(graph, cuts, place + 1)
        if not (_starts_block(graph, cuts, place) or costs_nothing):
            break
        places.append(place + 1)
    return places


def _next_residual_block(graph: Graph, cuts: Sequence[Cut], after: int) -> int:
    later = range(after + 1, len(cuts))
    return next((place for place in later if _starts_block(graph, cuts, place)), len(cuts) - 1)


def _starts_block(graph: Graph, cuts: Sequence[Cut], place: int) -> bool:
    return place + 1 < len(cuts) and graph.can_leave_out(cuts[place].node, cuts[place + 1].node)


def _copied_eec(
    graph: Graph, cuts: Sequence[Cut], cut: Cut, num_classes: int, budget: float
) -> nn.Module | None:
    """The EEC with the most copied layers that costs at most `budget` multiplications, if there is one."""
    for later in reversed(list(later_layers(graph, cuts, cut))):
        eec = _sized_eec(later.feature_shape, num_classes, budget - later.macs)
        if eec is not None:
            # Copies, since the backbone's own layers learn something else.
            return nn.Sequential(*(copy.deepcopy(graph.block(*part)) for part in later.parts), eec)
    return None


def _sized_eec(shape: tuple[int, ...], num_classes: int, budget: float) -> nn.Module | None:
    """The largest new EEC that costs at most `budget` multiplications, if there is one."""
    for eec in _eecs(shape, num_classes):
        if count_macs(eec, torch.zeros(1, *shape))[0] <= budget:
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
        case (channels, height, across):
            for width, layers in (
                (max(4 * channels, 128), 3),
                (max(2 * channels, 64), 2),
                (channels, 1),
                (channels, 0),
            ):
                yield _convolutional((channels, height, across), width, layers, num_classes)
        case _:
            yield nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(shape).numel(), num_classes))


def _convolutional(shape: tuple[int, int, int], width: int, layers: int, num_classes: int) -> nn.Module:
    parts: list[nn.Module] = []
    channels, *sides = shape
    while max(sides) > _LARGEST_SIDE:
        steps = [2 if side > _LARGEST_SIDE else 1 for side in sides]
        parts.append(nn.MaxPool2d((steps[0], steps[1])))
        sides = [side // step for side, step in zip(sides, steps, strict=True)]
    for _ in range(layers):
        parts.append(separable_conv(channels, width))
        channels = width
    return nn.Sequential(*parts, pooled_linear(channels, num_classes))
