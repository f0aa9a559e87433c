"""The role an upstream plays for a node, whatever the transport."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from offramp.engine.payload import Sent
from offramp.serving.answers import Answers
from offramp.serving.call import Call


@dataclass(frozen=True)
class UpstreamState:
    """Whether the upstream is in use, and if not, why not."""

    target: str
    up: bool
    reason: str | None


@dataclass(frozen=True, slots=True)
class Accepts:
    """What an upstream accepts in one call: what else than features, total pixels of images, number of samples."""

    besides_features: frozenset[Sent]
    max_pixels: int
    max_samples: int


class Offloader(Protocol):
    """Finishes undecided samples on the next tier."""

    @property
    def state(self) -> UpstreamState:
        """Whether the upstream is currently in use."""
        ...

    @property
    def accepts(self) -> Accepts:
        """What the upstream accepts in one call, as far as this node knows."""
        ...

    async def resume(self, call: Call) -> Answers:
        """Finish samples that were handed over.

        The call says what its samples are sent as.

        Raises:
            OffloadError: the upstream is late or gone, refuses, or answers nonsense.
        """
        ...
