"""The role an upstream plays for a node, whatever carries the calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from offramp.serving.answers import Answers
from offramp.serving.call import Call


@dataclass(frozen=True)
class UpstreamState:
    """Whether the upstream is being asked, and if not, why not."""

    target: str
    up: bool
    reason: str | None


@dataclass(frozen=True, slots=True)
class Accepts:
    """What an upstream takes in one call: images at all, their pixels in sum, and samples."""

    images: bool
    max_pixels: int
    max_samples: int


class Offloader(Protocol):
    """Finishes undecided samples on the next tier."""

    @property
    def state(self) -> UpstreamState:
        """Whether the upstream is being asked at the moment."""
        ...

    @property
    def accepts(self) -> Accepts:
        """What it takes in one call, as far as it was heard."""
        ...

    async def resume(self, call: Call) -> Answers:
        """Finish samples that were handed over.

        A call that begins with block 1 goes upstream as the images its samples came as, any other one as features.

        Raises:
            OffloadError: the upstream is late, gone, refuses, or answers nonsense.
        """
        ...
