"""A circuit breaker: after a few failures in a row, the upstream is left alone until a probe succeeds."""

from __future__ import annotations

from offramp.errors import OffloadError, OffloadReason

# Refusals do not count: an upstream that refuses one call is alive and may answer the next.
_TRIPPING = {OffloadReason.UNREACHABLE, OffloadReason.LATE, OffloadReason.MISMATCH}


class Breaker:
    """Counts failures in a row; while it is open, the upstream is not asked. Not thread-safe: for one event loop."""

    def __init__(self, *, failures: int) -> None:
        self._limit = failures
        self._in_a_row = 0
        self._cause: OffloadError | None = None
        self.is_on_trial = False

    @property
    def cause(self) -> OffloadError | None:
        """The failure that opened the breaker; None while it is closed."""
        return self._cause

    def succeeded(self) -> None:
        """A call was answered."""
        self._in_a_row = 0
        self._cause = None
        self.is_on_trial = False

    def probed(self) -> None:
        """A probe was answered: calls are tried again. If the breaker was open, the next failure reopens it at once."""
        self.is_on_trial = self._cause is not None
        self._cause = None

    def failed(self, error: OffloadError) -> bool:
        """A call failed; True when that opened the breaker."""
        if error.reason not in _TRIPPING or self._cause:
            return False
        self._in_a_row += 1
        # A node with a different bundle refuses every call, so one failure is enough.
        at_once = self.is_on_trial or error.reason is OffloadReason.MISMATCH
        if self._in_a_row < self._limit and not at_once:
            return False
        self._cause = error
        return True

    def hold_open(self, error: OffloadError) -> None:
        """Open the breaker, or keep it open."""
        self._in_a_row = 0
        self._cause = error
