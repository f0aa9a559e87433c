"""How long batches take on this machine, learned from those that have run."""

from __future__ import annotations

import math
from collections import defaultdict

_MEMORY = 0.9  # weight of the previous estimate
_MOST = 1024  # no batch is larger


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
        full_s = seconds * size / samples
        known_s[size] = _MEMORY * known_s.get(size, full_s) + (1 - _MEMORY) * full_s

    def expected_s(self, first_block: int, samples: int) -> float:
        """Seconds for a batch, at most: as for a larger one, or for several smaller ones; infinite if none has run."""
        known_s, size = self._known_s[first_block], _size(samples)
        if size in known_s:
            return known_s[size]
        longest = ((seconds, max(1.0, samples / of)) for of, seconds in known_s.items())
        return min((seconds * times for seconds, times in longest), default=math.inf)

    def most_within(self, first_block: int, seconds: float) -> int:
        """Samples of the largest batch, doubling from 1, that is expected to take no longer; 0 if none is."""
        samples = 0
        while self.expected_s(first_block, max(1, 2 * samples)) <= seconds and samples < _MOST:
            samples = max(1, 2 * samples)
        return samples


def _size(samples: int) -> int:
    return 1 << (samples - 1).bit_length()
