"""What a client is told that is refused before the application sees its request."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from uvicorn.protocols.http.httptools_impl import STATUS_LINE


class RefusedRequestError(Exception):
    """A refusal: status, code for programs, message. `written`: the answer, after which nothing is heard."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.written: bytes = _written(status, code, message, b"connection: close\r\n")


@dataclass(frozen=True)
class FullPath:
    """A path that has no place for anybody. While that is so, the door refuses for it: an application costs more.

    message: what those who post there are told, with 503. is_full: whether it is still so. refused: called for each.
    """

    path: str
    message: str
    is_full: Callable[[], bool]
    refused: Callable[[], None]

    @property
    def written(self) -> bytes:
        """The answer; its connection goes on."""
        return _written(503, "overloaded", self.message)


def _written(status: int, code: str, message: str, *headers: bytes) -> bytes:
    body = json.dumps({"error": message, "code": code}).encode()
    retry = b"retry-after: 1\r\n" if status == 503 else b""
    head = b"content-type: application/json\r\n%b%bcontent-length: %d\r\n\r\n"
    return STATUS_LINE[status] + head % (b"".join(headers), retry, len(body)) + body


MALFORMED = RefusedRequestError(400, "bad_request", "this is not HTTP/1.1; send a request as RFC 9112 says")
FULL = RefusedRequestError(
    503, "overloaded", "this node has as many connections as it takes; try again later"
)
LATE = RefusedRequestError(408, "slow_head", "the request did not arrive in time; send it again, all at once")
