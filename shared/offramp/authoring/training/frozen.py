"""What the frozen part of a network computes in front of the parts that learn; it stays the same in every epoch.

Shapes: B samples, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from offramp.authoring.networks.early_exit import EarlyExitNetwork
from offramp.authoring.training.regimes import Phase

# Layers without weights that compute the same in training and in inference. What an EEC's first linear layer reads
# is often 49 times smaller than the feature that these reduce.
_FIXED = (
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.AvgPool2d,
    nn.MaxPool2d,
    nn.Flatten,
    nn.Identity,
)
_TAUGHT = "teacher"


@dataclass(frozen=True)
class Answers:
    """Logits (B, K) by exit number, and those of the teacher, if there is one."""

    logits_by_exit: Mapping[int, Tensor]
    taught_BK: Tensor | None


@dataclass(frozen=True)
class Front:
    """The frozen parts in front of what a phase trains, and what the learning parts take from them.

    network: the whole network. blocks: how many of its first blocks are frozen. exits: the learning exits behind these
    blocks. hands_on: whether anything behind these blocks learns. teacher: network whose last exit teaches, if any.
    """

    network: EarlyExitNetwork
    blocks: int
    exits: tuple[int, ...]
    hands_on: bool
    teacher: EarlyExitNetwork | None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all that the learning parts take: an exit's input, the last frozen block's output, the teacher."""
        handed_on = (self._handed_on,) if self.hands_on else ()
        return (
            *(f"exit-{n}" for n in self.exits),
            *handed_on,
            *((_TAUGHT,) if self.teacher is not None else ()),
        )

    @property
    def _handed_on(self) -> str:
        return f"block-{self.blocks}"

    def to(self, device: torch.device) -> Front:
        """The same front, with its networks on this device."""
        for part in (self.network, self.teacher):
            if part is not None:
                part.to(device)
        return self

    def compute(self, image_BCHW: Tensor, names: Collection[str]) -> dict[str, Tensor]:
        """Run the frozen parts in inference mode, without gradients.

        Args:
            image_BCHW: normalised pixels.
            names: those of `names` that are wanted.
        """
        wanted = {self.network.exit_blocks[n - 1]: n for n in self.exits if f"exit-{n}" in names}
        deepest = self.blocks if self._handed_on in names else max(wanted, default=0)
        found: dict[str, Tensor] = {}
        self.network.eval()
        with torch.no_grad():
            feature = image_BCHW
            for number, block in enumerate(self.network.blocks[:deepest], start=1):
                feature = block(feature)
                if number in wanted:
                    found[f"exit-{wanted[number]}"] = _halves(self.network.eecs[str(number)])[0](feature)
                if number == self.blocks and self._handed_on in names:
                    found[self._handed_on] = feature
            if _TAUGHT in names and self.teacher is not None:
                last = self.teacher.num_exits
                found[_TAUGHT] = self.teacher.eval().logits_at(image_BCHW, [last])[last]
        return found

    def answers(self, known: Mapping[str, Tensor], exits: Collection[int]) -> Answers:
        """What some exits answer, from what `compute` returned."""
        logits_by_exit = {}
        for number in self.exits:
            if number in exits:
                eec = self.network.eecs[str(self.network.exit_blocks[number - 1])]
                logits_by_exit[number] = _halves(eec)[1](known[f"exit-{number}"])
        behind = [number for number in exits if number not in logits_by_exit]
        if behind:
            feature = known[self._handed_on]
            logits_by_exit |= self.network.logits_at(feature, behind, after=self.blocks)
        return Answers(logits_by_exit, known.get(_TAUGHT))

    def handed_on(self, known: Mapping[str, Tensor]) -> Tensor:
        """The feature that the first learning block or the bottleneck takes."""
        return known[self._handed_on]

    def digest(self, name: str) -> str:
        """SHA-256 of the weights, and of the layers as torch prints them, that decide what has this name."""
        digest = hashlib.sha256(name.encode())
        for part in self._deciding(name):
            digest.update(repr(part).encode())
            for key, value in part.state_dict().items():
                digest.update(key.encode())
                digest.update(_bytes_of(value))
        return digest.hexdigest()

    def _deciding(self, name: str) -> list[nn.Module]:
        if name == _TAUGHT:
            assert self.teacher is not None, "only a front with a teacher has this name"
            return [self.teacher]
        if name == self._handed_on:
            return list(self.network.blocks[: self.blocks])
        block = self.network.exit_blocks[int(name.removeprefix("exit-")) - 1]
        return [*self.network.blocks[:block], _halves(self.network.eecs[str(block)])[0]]


def front_of(network: EarlyExitNetwork, phase: Phase, teacher: EarlyExitNetwork | None) -> Front | None:
    """The frozen parts in front of what a phase trains; None if the first block learns.

    Args:
        network: the network being trained.
        phase: which of its parts learn.
        teacher: the network whose last exit teaches, if any.
    """
    learning = sorted(phase.blocks)
    if phase.narrows and network.bottleneck is not None:
        learning = sorted([*learning, network.bottleneck.spec.split_point])
    blocks = learning[0] - 1 if learning else max(network.exit_blocks[n - 1] for n in phase.exits)
    if blocks == 0:
        return None
    exits = tuple(n for n in sorted(phase.exits) if network.exit_blocks[n - 1] <= blocks)
    return Front(network, blocks, exits, hands_on=bool(learning), teacher=teacher)


def _bytes_of(value: object) -> bytes:
    # Through float32 or integers, as numpy has no bfloat16.
    if not isinstance(value, Tensor):
        return repr(value).encode()
    exact = value.float() if value.is_floating_point() else value
    return exact.cpu().contiguous().numpy().tobytes()


def _halves(eec: nn.Module) -> tuple[nn.Sequential, nn.Sequential]:
    """An EEC's leading layers that never change, and the rest."""
    layers = list(eec) if type(eec) is nn.Sequential else [eec]
    fixed = next((i for i, layer in enumerate(layers) if type(layer) not in _FIXED), len(layers))
    return nn.Sequential(*layers[:fixed]), nn.Sequential(*layers[fixed:])
