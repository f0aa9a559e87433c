"""How a network came from a backbone: where it could be cut, and where it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, eq=False)
class Cut:
    """A place where the backbone can be cut.

    node: of the tensor that is sent, as its graph names it. share: how much of the backbone's cost lies before the cut,
    0 to 1. macs: the same in multiplications. feature_shape: of the tensor, without the batch.
    """

    node: Any
    share: float
    macs: int
    feature_shape: tuple[int, ...]

    def __deepcopy__(self, _: Any) -> Cut:
        # A copy of the network shares it: nothing in it changes, and a node would bring its whole graph along.
        return self


@dataclass(frozen=True)
class Origin:
    """How a backbone was cut.

    image_shape: (C, H, W) it was traced with. cuts: all places where it could be cut. chosen: the places where it was
    cut, shallow to deep. difference: largest absolute difference between the logits of the backbone and those of its
    blocks together, on random images.
    """

    image_shape: tuple[int, int, int]
    cuts: tuple[Cut, ...]
    chosen: tuple[Cut, ...]
    difference: float
