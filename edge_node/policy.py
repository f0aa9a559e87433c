"""The run-time policy: which θ the node decides by, changeable between two requests.

Where a node runs as several processes it is kept in memory they share, so that all decide alike, whichever was told.
"""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from threading import Lock
from typing import Any

from offramp.bundle import Manifest
from offramp.engine.tier import checked_thetas
from offramp.errors import ConfigError


@dataclass(frozen=True)
class PolicyState:
    """θ in force, and the name of the operating point they came from; None when set by hand."""

    thetas: tuple[float, ...]
    operating_point: str | None


_BY_HAND = -1
_WAIT_S = 1.0


@dataclass(frozen=True)
class Shared:
    """Where a policy is kept: the count of changes, the operating point's place among the bundle's (-1: none), and θ.

    Changed under the lock; the count is odd meanwhile.
    """

    values: MutableSequence[float]
    lock: Any


def _first(manifest: Manifest) -> list[float]:
    names = [point.name for point in manifest.operating_points]
    return [0.0, float(names.index(manifest.default_operating_point)), *manifest.operating_point.thetas]


def shared_policy(manifest: Manifest) -> Shared:
    """Memory for the policy of a node of several processes, to be handed to each; the bundle's default is in force."""
    processes = get_context("spawn")
    return Shared(processes.RawArray("d", _first(manifest)), processes.Lock())


class Policy:
    """Holds the one state every request reads once, so that no request sees half a change."""

    def __init__(self, manifest: Manifest, shared: Shared | None = None) -> None:
        self._manifest = manifest
        self._names = [point.name for point in manifest.operating_points]
        shared = shared or Shared(_first(manifest), Lock())
        self._values, self._lock = shared.values, shared.lock
        self._seen = -1.0
        self._state = PolicyState(manifest.operating_point.thetas, manifest.default_operating_point)

    @property
    def state(self) -> PolicyState:
        """What is in force now."""
        if self._values[0] != self._seen:
            self._read()
        return self._state

    def set_thetas(self, thetas: Sequence[float]) -> None:
        """Decide by these θ from the next request on.

        Raises:
            ConfigError: they do not fit the bundle; nothing is changed.
        """
        self._write(_BY_HAND, checked_thetas(thetas, self._manifest))

    def choose(self, name: str) -> None:
        """Decide by the θ of an operating point of the bundle.

        Raises:
            ConfigError: there is none of that name; nothing is changed.
        """
        if name not in self._names:
            raise ConfigError(f"no operating point '{name}'; the bundle has {', '.join(self._names)}")
        at = self._names.index(name)
        self._write(at, self._manifest.operating_points[at].thetas)

    def _write(self, point: int, thetas: Sequence[float]) -> None:
        # A lock that a process held when it died is waited for in vain: its change is lost, this one is not.
        held = self._lock.acquire(timeout=_WAIT_S)
        try:
            change = int(self._values[0]) // 2 * 2
            self._values[0] = change + 1
            self._values[1] = point
            self._values[2:] = list(thetas)
            self._values[0] = change + 2
        finally:
            if held:
                self._lock.release()

    def _read(self) -> None:
        before, point, *thetas = self._values[:]
        if before % 2 or before != self._values[0]:
            return  # half a change: the one before it still holds
        self._seen = before
        self._state = PolicyState(tuple(thetas), None if point == _BY_HAND else self._names[int(point)])
