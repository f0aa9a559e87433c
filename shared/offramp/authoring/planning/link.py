"""A link between two tiers, as far as a plan is concerned: how fast it is, and how far away the other end."""

from __future__ import annotations

from dataclasses import dataclass

from offramp.errors import ConfigError


@dataclass(frozen=True)
class LinkProfile:
    """A link that is the same in both directions.

    rate_mbit: megabits per second. delay_ms: milliseconds in each direction, half the round trip.
    """

    rate_mbit: float
    delay_ms: float

    def __post_init__(self) -> None:
        if self.rate_mbit <= 0:
            raise ConfigError(
                f"a link of {self.rate_mbit:g} Mbit/s carries nothing; give its rate, such as 5mbit"
            )

    def ms(self, up_bytes: float, down_bytes: float) -> float:
        """Milliseconds that a call spends on the link, if nothing else uses it and the connection is open."""
        return 2 * self.delay_ms + (up_bytes + down_bytes) * 8 / (self.rate_mbit * 1000)
