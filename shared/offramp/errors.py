"""Every error that Offramp raises on purpose, in one family.

A message says what was found, what was expected and what to do. Each node has one table that maps these types to a
status. Any other exception is a bug and is answered with INTERNAL / 500.
"""

from __future__ import annotations

from enum import StrEnum

_LONGEST = 600


class OfframpError(Exception):
    """Base class of every error that Offramp raises; the text is meant for people.

    The text may quote untrusted input, so long texts are shortened and characters that cannot be encoded are escaped.
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
    """A data set on disk is missing or damaged, or does not suit its purpose."""


class BundleError(OfframpError):
    """A bundle on disk is missing, altered or incomplete, or this version cannot read its format."""


class BundleMismatchError(OfframpError):
    """A peer serves a different bundle from this node."""


class StoppedError(OfframpError):
    """A signal ended a command that can be continued later.

    signal_number: of the signal; the exit status is 128 more, as in a shell.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number


class RequestError(OfframpError):
    """A request is malformed; only its sender can fix it."""


class TooLargeError(RequestError):
    """A request carries more bytes, images or pixels than this node accepts."""


class UnsupportedMediaError(RequestError):
    """A request has a content type or an image format that this node does not read."""


class FeatureError(RequestError):
    """A feature tensor does not have the shape, dtype, codec or length that its block needs."""


class OverloadError(OfframpError):
    """A node already has as much work as it accepts; the same request may succeed later."""


class ExpiredError(OfframpError):
    """A call's deadline passed while the call was queued, so nobody is waiting for its answer."""


class OffloadReason(StrEnum):
    """Why an upstream did not answer: a small, fixed set of words that can label a metric."""

    UNREACHABLE = "unreachable"
    LATE = "late"
    REFUSED = "refused"
    MISMATCH = "mismatch"


class OffloadError(OfframpError):
    """The upstream did not answer.

    uplink_bytes: each sample's share of the bytes that were sent without getting an answer. blames_request: the
    upstream found a fault in the request itself, so parts of the request may succeed if they are sent separately.
    """

    def __init__(
        self, message: str, reason: OffloadReason, *, uplink_bytes: int = 0, blames_request: bool = False
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.uplink_bytes = uplink_bytes
        self.blames_request = blames_request
