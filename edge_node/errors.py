"""From a named error to an HTTP status and a body that helps whoever sent the request."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from offramp.errors import (
    ConfigError,
    OffloadError,
    OfframpError,
    OverloadError,
    RequestError,
    TooLargeError,
    UnsupportedMediaError,
)

_log = logging.getLogger("edge_node")


class MethodError(RequestError):
    """A path was asked with a method it does not have."""


class NotKeptError(OfframpError):
    """A change of policy could not be written where it is kept."""


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


# The first row that fits decides. Anything that is not here is a bug: 500, and logged.
_STATUS: tuple[tuple[type[OfframpError], int, str], ...] = (
    (TooLargeError, 413, "too_large"),
    (UnsupportedMediaError, 415, "unsupported_media"),
    (MethodError, 405, "method_not_allowed"),
    (SlowBodyError, 408, "slow_body"),
    (RequestError, 400, "bad_request"),
    (ConfigError, 422, "bad_value"),
    (OverloadError, 503, "overloaded"),
    (OffloadError, 503, "upstream_unavailable"),
    (NotKeptError, 500, "not_kept"),
)


def refusal_for(error: Exception) -> Refusal:
    """How an error is answered; one that has no name is logged with its traceback and answered 500."""
    for kind, status, code in _STATUS:
        if isinstance(error, kind):
            return Refusal(status, code, str(error))
    _log.error("a request failed for a reason this node does not know", exc_info=error)
    return Refusal(500, "internal", "this node failed; its log says how")
