"""The training regimes: which blocks and EECs learn in which phase, and from what.

- joint: all at once, one weighted sum of losses (BranchyNet, Teerapittayanon et al. 2016).
- backbone: only the backbone and its own classifier; the early exits stay as they are. Start `joint` from such a
  run for what the literature calls mixed training.
- layer-wise: the blocks up to exit 1 with its EEC, then those up to exit 2, and so on; finished parts are frozen.
- distill: the EECs learn from a trained backbone, which is frozen or learns with them.
- exits: all EECs, the last one included, learn from labels on a frozen backbone.
- bottleneck: an encoder and a decoder at the split learn to reproduce their input, while the rest is frozen. Then they
  and everything after them learn from the network as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from torch import nn

from offramp.authoring.networks.bottleneck import BottleneckSpec
from offramp.authoring.networks.early_exit import EarlyExitNetwork

RegimeName = Literal["joint", "backbone", "layer-wise", "distill", "exits", "bottleneck"]
# A fresh encoder and decoder, on features of mean 0 and variance 1, learn with one rate whatever the network.
_RECONSTRUCTING: Mapping[str, Any] = {
    "optimizer": "adamw",
    "learning_rate": 3e-3,
    "weight_decay": 0.0,
    "schedule": "one_cycle",
    "warmup": None,
    "backbone_rate": 1.0,
    "layer_decay": 1.0,
}
REGIMES: tuple[RegimeName, ...] = get_args(RegimeName)


@dataclass(frozen=True)
class Phase:
    """The numbers of the blocks and exits that learn; everything else is frozen, batch-norm statistics included.

    weights: of the loss of every exit that learns, by exit number. narrows: whether the bottleneck learns too; if no
    exit does, it learns to reproduce its input. changes: what this phase does otherwise than the recipe says.
    """

    blocks: frozenset[int]
    exits: frozenset[int]
    weights: Mapping[int, float]
    narrows: bool = False
    changes: Mapping[str, Any] = field(default_factory=dict)

    def without_first(self, blocks: int) -> Phase:
        """The same phase, but so many of the first blocks are frozen."""
        return replace(self, blocks=frozenset(number for number in self.blocks if number > blocks))

    def learning(self, network: EarlyExitNetwork) -> list[nn.Module]:
        """The modules whose weights change."""
        eecs = [network.eecs[str(network.exit_blocks[number - 1])] for number in sorted(self.exits)]
        narrow = [network.bottleneck] if self.narrows and network.bottleneck is not None else []
        return [*(network.blocks[number - 1] for number in sorted(self.blocks)), *eecs, *narrow]


def phases(
    regime: RegimeName,
    exit_blocks: Sequence[int],
    weights: Sequence[float],
    *,
    frozen: bool,
    bottleneck: BottleneckSpec | None = None,
) -> tuple[Phase, ...]:
    """The phases of a regime, in order.

    Args:
        regime: its name.
        exit_blocks: number of the block that each exit follows; the last one is the last block.
        weights: w_i of the loss of every exit, for the phases that train several of them.
        frozen: whether `distill` leaves the backbone as it is.
        bottleneck: the one that the regime `bottleneck` trains.
    """
    if regime == "distill" and frozen:
        # EECs on a frozen backbone do not affect each other: a weight would only change the learning rate.
        early = range(1, len(exit_blocks))
        return (Phase(frozenset(), frozenset(early), dict.fromkeys(early, 1.0)),)
    if regime == "exits":
        every = range(1, len(exit_blocks) + 1)
        return (Phase(frozenset(), frozenset(every), dict.fromkeys(every, 1.0)),)
    if regime == "bottleneck":
        assert bottleneck is not None, "a run of this regime has one"
        return _bottleneck(bottleneck, exit_blocks, weights)
    return _PHASES[regime](exit_blocks, dict(enumerate(weights, start=1)))


def _bottleneck(
    spec: BottleneckSpec, exit_blocks: Sequence[int], weights: Sequence[float]
) -> tuple[Phase, ...]:
    none: frozenset[int] = frozenset()
    behind = {
        number: weights[number - 1]
        for number, block in enumerate(exit_blocks, start=1)
        if block >= spec.split_point
    }
    blocks = frozenset(range(spec.split_point, exit_blocks[-1] + 1))
    tuned = Phase(blocks, frozenset(behind), behind, narrows=True)
    # Plain rounding has no weights to train on its own.
    if spec.channels is None:
        return (tuned,)
    return Phase(none, none, {}, narrows=True, changes=_RECONSTRUCTING), tuned


def _all_at_once(exit_blocks: Sequence[int], weights: Mapping[int, float]) -> tuple[Phase, ...]:
    return (Phase(frozenset(range(1, exit_blocks[-1] + 1)), frozenset(weights), weights),)


def _backbone(exit_blocks: Sequence[int], _: Mapping[int, float]) -> tuple[Phase, ...]:
    last = len(exit_blocks)
    return (Phase(frozenset(range(1, exit_blocks[-1] + 1)), frozenset({last}), {last: 1.0}),)


def _layer_wise(exit_blocks: Sequence[int], _: Mapping[int, float]) -> tuple[Phase, ...]:
    starts = [0, *exit_blocks]
    return tuple(
        Phase(frozenset(range(start + 1, block + 1)), frozenset({number}), {number: 1.0})
        for number, (start, block) in enumerate(zip(starts[:-1], exit_blocks, strict=True), start=1)
    )


_PHASES: Mapping[RegimeName, Callable[[Sequence[int], Mapping[int, float]], tuple[Phase, ...]]] = {
    "joint": _all_at_once,
    "backbone": _backbone,
    "layer-wise": _layer_wise,
    "distill": _all_at_once,
}
