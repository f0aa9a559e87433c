"""How long batches take on this machine, learned from those that have run."""

from __future__ import annotations

import math
from collections import defaultdict

_MEMORY = 0.9  # weight of the previous estimate
_LEAST_S = 1e-6


class Pace:
    """Estimates, by the block a batch begins with and by its size, counted up to the next power of two.

    A sample's share of a batch says little about a smaller or larger one: alone it can take twice as long on a CPU, and
    as long as eight of them on a GPU.
    """

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._known_s: dict[int, dict[int, float]] = defaultdict(dict)

    def learn(self, first_block: int, samples: int, seconds: float) -> None:
        """A batch has run."""
        known_s, size = self._known_s[first_block], _size(samples)
        full_s = max(seconds, _LEAST_S) * size / samples
        known_s[size] = _MEMORY * known_s.get(size, full_s) + (1 - _MEMORY) * full_s

    def expected_s(self, first_block: int, samples: int) -> float:
        """Seconds for a batch, at most: as for a larger one, or for several smaller ones; infinite if none has run."""
        known_s, size = self._known_s[first_block], _size(samples)
        return min(
            (each_s * (samples / of if of <= size else 1.0) for of, each_s in known_s.items()),
            default=math.inf,
        )

    def most_within(self, first_block: int, seconds: float) -> int:
        """Samples of the largest batch that is expected to take no longer; 0 if none is."""
        known_s = self._known_s[first_block]
        most = [int(of * seconds / each_s) for of, each_s in known_s.items()]
        return max((each for each in most if self._takes(first_block, each, seconds)), default=0)

    def _takes(self, first_block: int, samples: int, seconds: float) -> bool:
        return samples > 0 and self.expected_s(first_block, samples) <= seconds


def _size(samples: int) -> int:
    return 1 << (samples - 1).bit_length()
