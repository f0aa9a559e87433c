"""What a prediction's head asks for: probabilities, an id, a deadline."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from urllib.parse import parse_qsl

from offramp.errors import RequestError
from offramp.serving.asgi import Scope
from offramp.serving.tracing import TRACEPARENT

LONGEST_MS = 600_000  # that a client may wait for an answer
_LONGEST_ID = 64

_VISIBLE = re.compile(r"[!-~]+")
_UNUSUAL = re.compile(r"[^A-Za-z0-9._-]")
_SWITCH = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked; `timeout_s`: how long the client waits, None if it does not say."""

    request_id: str
    with_probabilities: bool
    timeout_s: float | None
    traceparent: str | None

    def sample_ids(self, count: int) -> list[str]:
        """An id for each of `count` images."""
        if count == 1:
            return [self.request_id]
        return [f"{self.request_id}-{number}" for number in range(1, count + 1)]


def asked(scope: Scope) -> Asked:
    """Read the head of a request.

    Raises:
        RequestError: a query parameter or a header that this path knows has a value that it does not take.
    """
    headers = dict(scope["headers"])
    traceparent = headers.get(TRACEPARENT.encode())
    return Asked(
        request_id=_request_id(headers.get(b"x-request-id")),
        with_probabilities=_wants_probabilities(scope["query_string"]),
        timeout_s=_timeout_s(headers.get(b"x-request-timeout-ms")),
        traceparent=None if traceparent is None else traceparent.decode("latin-1"),
    )


def _request_id(given: bytes | None) -> str:
    if given is None:
        return f"{random.getrandbits(64):016x}"
    text = given.decode("latin-1")
    if not _VISIBLE.fullmatch(text):
        raise RequestError(
            f"x-request-id of {len(text)} characters is not valid; use visible ASCII characters, at least one, or "
            "leave it out"
        )
    # Gateways write ids of all kinds. In logs and at other tiers an id has to be plain.
    return _UNUSUAL.sub("_", text[:_LONGEST_ID])


def _timeout_s(given: bytes | None) -> float | None:
    if given is None:
        return None
    text = given.decode("latin-1")
    if not (len(text) <= 6 and text.isascii() and text.isdecimal() and 1 <= int(text) <= LONGEST_MS):
        raise RequestError(
            f"x-request-timeout-ms is '{text}', expected a whole number from 1 to {LONGEST_MS}"
        )
    return int(text) / 1000


def _wants_probabilities(query: bytes) -> bool:
    wanted = False
    if not query:
        return wanted
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if name != "probabilities":
            raise RequestError(f"unknown query '{name}'; this path knows only 'probabilities'")
        if value.lower() not in _SWITCH:
            raise RequestError(f"probabilities is '{value}'; write true or false")
        wanted = _SWITCH[value.lower()]
    return wanted
