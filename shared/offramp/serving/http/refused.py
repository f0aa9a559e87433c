"""What a client is told that is refused before the application sees its request."""

from __future__ import annotations

import json

from uvicorn.protocols.http.httptools_impl import STATUS_LINE


class RefusedRequestError(Exception):
    """A refusal: status, code for programs, message. `written`: the answer, after which nothing is heard."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        body = json.dumps({"error": message, "code": code}).encode()
        retry = b"retry-after: 1\r\n" if status == 503 else b""
        head = b"content-type: application/json\r\nconnection: close\r\n%bcontent-length: %d\r\n\r\n"
        self.written: bytes = STATUS_LINE[status] + head % (retry, len(body)) + body


MALFORMED = RefusedRequestError(400, "bad_request", "this is not HTTP/1.1; send a request as RFC 9112 says")
FULL = RefusedRequestError(
    503, "overloaded", "this node has as many connections as it takes; try again later"
)
LATE = RefusedRequestError(408, "slow_head", "the request did not arrive in time; send it again, all at once")
