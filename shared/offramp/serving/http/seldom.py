"""Log lines that strangers cause: at most one of a kind in ten seconds, with how many there were."""

from __future__ import annotations

import logging
from time import monotonic

from offramp.logs import line

_EVERY_S = 10.0


class SeldomLog:
    """Warns about one kind of event, however often it happens."""

    def __init__(self, log: logging.Logger, event: str, detail: str) -> None:
        self._log = log
        self._event = event
        self._detail = detail
        self._count = 0
        self._next = 0.0

    def count(self, client: str) -> None:
        """Count one more; log it if the last line was long enough ago."""
        self._count += 1
        if (now := monotonic()) >= self._next:
            self._next = now + _EVERY_S
            self._log.warning(line(self._event, times=self._count, last=client, detail=self._detail))
            self._count = 0
