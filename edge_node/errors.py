"""Turns an error into an HTTP status and a body that helps the sender of the request."""

from __future__ import annotations

import errno
import logging
from dataclasses import dataclass

from offramp.errors import (
    ConfigError,
    ExpiredError,
    OffloadError,
    OfframpError,
    OverloadError,
    RequestError,
    TooLargeError,
    UnsupportedMediaError,
)

_log = logging.getLogger("edge_node")


class MethodError(RequestError):
    """A request used a method that its path does not support."""


class NotKeptError(OfframpError):
    """A change of policy could not be saved to its file."""


class SlowBodyError(RequestError):
    """A request's body did not arrive in time."""


@dataclass(frozen=True)
class Refusal:
    """What a client is told: an HTTP status, a fixed code for programs, a message for people."""

    status: int
    code: str
    message: str

    @property
    def body(self) -> dict[str, str]:
        """The JSON body of every error this node answers with."""
        return {"error": self.message, "code": self.code}

    @property
    def headers(self) -> dict[str, str]:
        """Headers that go with the status."""
        match self.status:
            case 405:
                return {"allow": "POST"}
            case 503:
                return {"retry-after": "1"}
            case _:
                return {}


# Not the request's fault, wherever it happens: no descriptor, no memory.
_OUT_OF = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

# The first row that matches decides. Any other exception is a bug: it is logged and answered with 500.
_STATUS: tuple[tuple[type[OfframpError], int, str], ...] = (
    (TooLargeError, 413, "too_large"),
    (UnsupportedMediaError, 415, "unsupported_media"),
    (MethodError, 405, "method_not_allowed"),
    (SlowBodyError, 408, "slow_body"),
    (RequestError, 400, "bad_request"),
    (ConfigError, 422, "bad_value"),
    (OverloadError, 503, "overloaded"),
    (ExpiredError, 504, "expired"),
    (OffloadError, 503, "upstream_unavailable"),
    (NotKeptError, 500, "not_kept"),
)


def refusal_for(error: Exception) -> Refusal:
    """The answer to an error; one that is not in the table is logged with its traceback and answered with 500."""
    if short := _out_of(error):
        _log.error("a request failed because this machine has too little of something", exc_info=short)
        return Refusal(503, "overloaded", "this node is short of memory or files; try again later")
    for kind, status, code in _STATUS:
        if isinstance(error, kind):
            return Refusal(status, code, str(error))
    _log.error("a request failed with an unexpected error", exc_info=error)
    return Refusal(500, "internal", "this node failed; its log says why")


def _out_of(error: BaseException | None) -> BaseException | None:
    """The error below an error that says that the system has no more of something."""
    while error is not None:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _OUT_OF):
            return error
        error = error.__cause__
    return None
