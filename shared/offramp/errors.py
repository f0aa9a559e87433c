"""Every error that Offramp raises on purpose, in one family.

A message says what was found, what was expected and what to do. Each node maps these types to a status in
one table of its own; anything else is a bug and is answered with INTERNAL / 500.
"""

from __future__ import annotations

from enum import StrEnum

_LONGEST = 600


class OfframpError(Exception):
    """Base of every fault that Offramp names; its text is meant for a person.

    It may quote what a stranger sent, so it is kept short and free of what cannot be encoded.
    """

    def __init__(self, message: str) -> None:
        shown = (
            message
            if len(message) <= _LONGEST
            else f"{message[: _LONGEST // 2]} … {message[-_LONGEST // 2 :]}"
        )
        super().__init__(shown.encode("utf-8", "backslashreplace").decode())


class ConfigError(OfframpError):
    """A caller's setting, option or argument cannot be used."""


class DataError(OfframpError):
    """A data set on disk is missing, damaged, or does not fit what it is used for."""


class BundleError(OfframpError):
    """A bundle on disk is missing, altered, incomplete, or of a format this version does not read."""


class BundleMismatchError(OfframpError):
    """A peer serves another bundle than this node."""


class RequestError(OfframpError):
    """A request is malformed: it can be repaired only by the one who sent it."""


class TooLargeError(RequestError):
    """A request carries more bytes, images or pixels than this node accepts."""


class UnsupportedMediaError(RequestError):
    """A request carries a kind of content that this node does not read."""


class FeatureError(RequestError):
    """A feature tensor does not have the shape, dtype, codec or length that its block needs."""


class OverloadError(OfframpError):
    """A node has as much to do as it takes on; the same request is welcome later."""


class ExpiredError(OfframpError):
    """A call's deadline passed before its turn came: nobody waits for its answer any more."""


class OffloadReason(StrEnum):
    """Why an upstream did not answer: a small, fixed vocabulary, fit for a metric's label."""

    UNREACHABLE = "unreachable"
    LATE = "late"
    REFUSED = "refused"
    MISMATCH = "mismatch"


class OffloadError(OfframpError):
    """The upstream did not answer.

    uplink_bytes: each sample's share of what was sent to it in vain. blames_request: it finds fault with what it was
    sent, so that a part of that, sent again by itself, may fare better.
    """

    def __init__(
        self, message: str, reason: OffloadReason, *, uplink_bytes: int = 0, blames_request: bool = False
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.uplink_bytes = uplink_bytes
        self.blames_request = blames_request
