"""The role an upstream plays for a node, whatever the transport."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from offramp.engine.payload import Sent
from offramp.serving.answers import Answers
from offramp.serving.call import Call
from offramp.wire.messages import MAX_MESSAGE_BYTES

MOST_SAMPLES = 256  # in one call, whatever the upstream accepts: its answer has to be bounded, too


@dataclass(frozen=True)
class UpstreamState:
    """Whether the upstream is in use, and if not, why not; and what it says about the tier behind it."""

    target: str
    up: bool
    reason: str | None
    behind: UpstreamState | None = None

    @property
    def weakest(self) -> UpstreamState:
        """The nearest tier that does not answer, or this one."""
        return self.behind if self.up and self.behind and not self.behind.up else self


@dataclass(frozen=True, slots=True)
class Accepts:
    """What an upstream accepts in one call.

    besides_features: what else than features. max_pixels: of its images together. max_samples: of any kind.
    max_features: so many are within its limit on bytes, whatever is in them. max_bytes: of its images together.
    """

    besides_features: frozenset[Sent]
    max_pixels: int
    max_samples: int
    max_features: int = MOST_SAMPLES
    max_bytes: int = MAX_MESSAGE_BYTES


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
