"""A circuit breaker: after a few failures in a row the upstream is left alone until a probe finds it well."""

from __future__ import annotations

from offramp.errors import OffloadError, OffloadReason

# An upstream that refuses one call is alive: asking it again is right.
_TRIPPING = {OffloadReason.UNREACHABLE, OffloadReason.LATE, OffloadReason.MISMATCH}


class Breaker:
    """Counts failures in a row; open means: do not ask. Not thread-safe: one event loop uses it."""

    def __init__(self, *, failures: int) -> None:
        self._limit = failures
        self._in_a_row = 0
        self._cause: OffloadError | None = None

    @property
    def cause(self) -> OffloadError | None:
        """The failure that opened the breaker; None while it is closed."""
        return self._cause

    def succeeded(self) -> None:
        """A call or a probe was answered."""
        self._in_a_row = 0
        self._cause = None

    def failed(self, error: OffloadError) -> bool:
        """A call failed; True when that opened the breaker."""
        if error.reason not in _TRIPPING or self._cause:
            return False
        self._in_a_row += 1
        # A node with another bundle refuses every call: one is enough to know.
        if self._in_a_row < self._limit and error.reason is not OffloadReason.MISMATCH:
            return False
        self._cause = error
        return True

    def hold_open(self, error: OffloadError) -> None:
        """A probe failed: the upstream is still not to be asked."""
        self._cause = error
