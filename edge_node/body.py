"""Reads the body of an HTTP request, within limits on its size, its time and the memory of all bodies together."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator
from contextlib import nullcontext
from types import TracebackType
from typing import Self

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope

from edge_node.errors import SlowBodyError
from offramp.errors import OverloadError, RequestError, TooLargeError, UnsupportedMediaError
from offramp.serving.http.clients import client_of, is_all_here
from offramp.serving.http.share import FairShare

_PIECE_BYTES = 262_144  # that are decompressed at a time
# A small body comes with its head. A timer takes a few percent of a request.
_UNLIMITED = nullcontext()


class LimitedBody:
    """A request's body as it arrives, cut off at the size the node accepts.

    It is booked in a budget as it arrives, not by the length that it announces. Leaving its context gives that back.
    """

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        *,
        max_bytes: int,
        timeout_s: float,
        setting: str = "",
        budget: FairShare | None = None,
    ) -> None:
        """Accept `max_bytes`; `setting`: what sets this limit, for the error; empty if nothing does."""
        self.headers = Headers(scope=scope)
        self._scope = scope
        self._receive = receive
        self._max_bytes = max_bytes
        self._limit = f"{max_bytes} ({setting})" if setting else str(max_bytes)
        self._timeout_s = timeout_s
        self._budget = budget
        self._client = client_of(scope)
        self._booked = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._budget is not None and self._booked:
            self._budget.give(self._client, self._booked)
            self._booked = 0

    async def read(self) -> bytes:
        """The whole body, decompressed if it is gzip.

        Raises:
            TooLargeError: it is larger than this path takes.
            SlowBodyError: it did not arrive in time.
            OverloadError: other bodies, or others of this client, leave too little memory for it.
            UnsupportedMediaError: it is compressed with something else than gzip.
            RequestError: the client went away, or what claims to be gzip is not.
        """
        self._check_length()
        unpacker = _unpacker_for(self.headers.get("content-encoding", "identity"))
        pieces: list[bytes] = []
        try:
            async with _UNLIMITED if is_all_here(self._scope) else asyncio.timeout(self._timeout_s):
                is_complete = False
                while not is_complete:
                    message = await self._next()
                    is_complete = not message.get("more_body", False)
                    arrived = message.get("body", b"")
                    if unpacker is None:
                        self._keep(arrived, pieces)
                        continue
                    for piece in unpacker.unpacked(arrived):
                        self._keep(piece, pieces)
                        await asyncio.sleep(0)  # others' turn
        except TimeoutError as error:
            raise SlowBodyError(
                f"the body did not arrive within {self._timeout_s:g} s; send it again, faster or smaller"
            ) from error
        if unpacker is not None:
            unpacker.check_end()
        return b"".join(pieces)

    def _keep(self, piece: bytes, pieces: list[bytes]) -> None:
        if not piece:
            return
        if self._budget is not None and not self._budget.take(self._client, len(piece)):
            raise OverloadError("other requests fill this node's memory for bodies; try again later")
        self._booked += len(piece)
        if self._booked > self._max_bytes:
            # A body that is chunked or compressed does not declare its length.
            raise TooLargeError(
                f"body of more bytes than this path takes, which are {self._limit}; send less"
            )
        pieces.append(piece)

    def _check_length(self) -> None:
        length = self.headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._max_bytes:
            raise TooLargeError(
                f"body of {length} bytes, but this path takes at most {self._limit}; send less"
            )

    async def _next(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise RequestError("the client went away before its body was complete")
        return message


class _Gzip:
    """Decompresses gzip as it arrives, a bounded piece at a time."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(wbits=31)

    def unpacked(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._stream.eof:
                raise RequestError(
                    "content-encoding is gzip, but the body goes on behind its end; send one file"
                )
            try:
                piece = self._stream.decompress(data, _PIECE_BYTES)
            except zlib.error as error:
                raise RequestError(
                    f"content-encoding is gzip, but the body is not: {error}; leave that header out"
                ) from error
            data = self._stream.unconsumed_tail or self._stream.unused_data
            yield piece

    def check_end(self) -> None:
        if not self._stream.eof:
            raise RequestError("content-encoding is gzip, but the body ends early; send the whole body again")


def _unpacker_for(encoding: str) -> _Gzip | None:
    match encoding.strip().lower():
        case "identity" | "":
            return None
        case "gzip" | "x-gzip":
            return _Gzip()
        case _:
            raise UnsupportedMediaError(
                f"content-encoding '{encoding}' is not read here; send the body as it is, or as gzip"
            )


def replayed(data: bytes) -> Receive:
    """An ASGI `receive` that returns a body that has already been read."""

    async def receive() -> Message:
        return {"type": "http.request", "body": data, "more_body": False}

    return receive
