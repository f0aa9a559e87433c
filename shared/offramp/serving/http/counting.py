"""Counts what the parser reports of a request, and stops it once there is too much; httptools has no limits itself."""

from __future__ import annotations

import math
from typing import NoReturn

from offramp.serving.http.limits import CHUNK_BYTES, FREE_CHUNKS, HEAD_BYTES, HEADERS, PIPELINED
from offramp.serving.http.refused import RefusedRequestError


class RequestCounts:
    """How much of one request has come; a method raises its `refusal` when it is too much."""

    def __init__(self) -> None:
        self._head_bytes = self._headers = self._hosts = 0
        self._trailers = self._chunks = self._body_bytes = 0
        self._length = 0.0  # as announced
        self.in_head = True
        self.refusal: RefusedRequestError | None = None  # the parser passes no exception on

    @property
    def unread(self) -> float:
        """Bytes of the body that are still to come, as far as the head tells."""
        return self._length - self._body_bytes

    def url(self, part: bytes) -> None:
        """A part of the request's target has come."""
        self._count_head(len(part))

    def header(self, name: bytes, value: bytes) -> None:
        """A header is complete; `name` is in lower case."""
        if not self.in_head:
            self._trailers += 1
            if self._trailers > HEADERS:
                self._refuse(431, f"more than {HEADERS} trailers; send fewer")
            return
        self._headers += 1
        self._hosts += name == b"host"
        if name == b"content-length" and value.strip().isdigit():
            self._length = int(value)
        elif name == b"transfer-encoding":
            self._length = math.inf
        self._count_head(len(name) + len(value) + 4)
        if self._headers > HEADERS:
            self._refuse(431, f"more than {HEADERS} headers; send fewer")

    def head_done(self, http_version: str) -> None:
        """The head is complete."""
        self.in_head = False
        # RFC 9112, 3.2: nobody knows which of two a proxy went by.
        if self._hosts > 1 or (not self._hosts and http_version not in ("1.0", "0.9")):
            self._refuse(400, f"{self._hosts or 'no'} Host headers, expected exactly one")

    def more_head(self, num_bytes: int) -> None:
        """Bytes have come, and the head is still not complete."""
        self._count_head(num_bytes)

    def body(self, num_bytes: int) -> None:
        """A piece of the body has come."""
        self._chunks += 1
        self._body_bytes += num_bytes
        if self._chunks > FREE_CHUNKS and self._body_bytes < CHUNK_BYTES * self._chunks:
            self._refuse(
                400, f"a body of {self._chunks} chunks of less than {CHUNK_BYTES} bytes; send larger ones"
            )

    def queued(self, num_before: int) -> None:
        """The request is one of several that wait for the answers to those before them."""
        if num_before >= PIPELINED:
            self._refuse(
                400, f"more than {PIPELINED} requests sent before the first was answered; send fewer"
            )

    def _count_head(self, num_bytes: int) -> None:
        self._head_bytes += num_bytes
        if self._head_bytes > HEAD_BYTES:
            self._refuse(431, f"a head of more than {HEAD_BYTES} bytes; send less")

    def _refuse(self, status: int, message: str) -> NoReturn:
        code = "too_large_head" if status == 431 else "bad_request"
        self.refusal = RefusedRequestError(status, code, message)
        raise self.refusal
