"""The run-time policy: which θ the node decides by, changeable between two requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from offramp.bundle import Manifest
from offramp.errors import ConfigError
from offramp.tier import checked_thetas


@dataclass(frozen=True)
class PolicyState:
    """θ in force, and the name of the operating point they came from; None when set by hand."""

    thetas: tuple[float, ...]
    operating_point: str | None


class Policy:
    """Holds the one state every request reads once, so that no request sees half a change."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self.state = PolicyState(manifest.operating_point.thetas, manifest.default_operating_point)

    def set_thetas(self, thetas: Sequence[float]) -> None:
        """Decide by these θ from the next request on.

        Raises:
            ConfigError: they do not fit the bundle; nothing is changed.
        """
        self.state = PolicyState(checked_thetas(thetas, self._manifest), None)

    def choose(self, name: str) -> None:
        """Decide by the θ of an operating point of the bundle.

        Raises:
            ConfigError: there is none of that name; nothing is changed.
        """
        points = {point.name: point for point in self._manifest.operating_points}
        if name not in points:
            raise ConfigError(f"no operating point '{name}'; the bundle has {', '.join(points)}")
        self.state = PolicyState(points[name].thetas, name)
