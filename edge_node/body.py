"""Reads the images out of an HTTP request: a raw body, multipart, or JSON with base64."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.types import Message, Receive, Scope

from edge_node.errors import SlowBodyError
from edge_node.settings import EdgeSettings
from offramp.errors import OverloadError, RequestError, TooLargeError, UnsupportedMediaError

# Content types that curl, requests and browsers send if nobody sets one.
_RAW_TYPES = {"", "application/octet-stream", "application/x-www-form-urlencoded"}

# This much of a refused body is read and thrown away, so that its sender gets to see the refusal.
_DRAINED_BYTES = 100_000_000


class ImagesAsJson(BaseModel):
    """A JSON body: one image or several, each as base64, with or without a `data:` prefix."""

    model_config = ConfigDict(extra="forbid")

    image: str | None = None
    images: list[str] | None = Field(default=None)


class BodyBudget:
    """Limits how many bytes of request bodies are held at the same time, over all requests."""

    def __init__(self, max_bytes: int) -> None:
        self._left = max_bytes

    @contextmanager
    def reserved(self, body: LimitedBody) -> Iterator[None]:
        """Reserve the largest size that a body may have, before any of it is read.

        Raises:
            OverloadError: other bodies leave too little room.
        """
        wanted = body.expected_bytes
        if wanted > self._left:
            raise OverloadError("other requests fill this node's memory for bodies; try again later")
        self._left -= wanted
        try:
            yield
        finally:
            self._left += wanted


class LimitedBody:
    """A request's body as it arrives, cut off at the size the node accepts."""

    def __init__(
        self, scope: Scope, receive: Receive, *, max_bytes: int, timeout_s: float, setting: str = ""
    ) -> None:
        """Accept `max_bytes`; `setting`: what sets this limit, for the error; empty if nothing does."""
        self.headers = Headers(scope=scope)
        self._receive = receive
        self._max_bytes = max_bytes
        self._limit = f"{max_bytes} ({setting})" if setting else str(max_bytes)
        self._timeout_s = timeout_s
        self._received = 0
        self._complete = False

    @property
    def expected_bytes(self) -> int:
        """The length that the request declares, or the largest allowed length if it declares none."""
        length = self.headers.get("content-length", "")
        return min(int(length), self._max_bytes) if length.isdecimal() else self._max_bytes

    async def read(self) -> bytes:
        """The whole body.

        Raises:
            TooLargeError: it is larger than this path takes.
            SlowBodyError: it did not arrive in time.
            RequestError: the client went away.
        """
        self._check_length()
        chunks: list[bytes] = []
        try:
            async with asyncio.timeout(self._timeout_s):
                while not self._complete:
                    chunks.append((await self._limited()).get("body", b""))
        except TimeoutError as error:
            raise SlowBodyError(
                f"the body did not arrive within {self._timeout_s:g} s; send it again, faster or smaller"
            ) from error
        return b"".join(chunks)

    async def _limited(self) -> Message:
        message = await self._next()
        if self._received > self._max_bytes:
            # A chunked body does not declare its length.
            raise TooLargeError(
                f"body of more bytes than this path takes, which are {self._limit}; send less"
            )
        return message

    def _check_length(self) -> None:
        """Refuse a body whose declared length is too large.

        Raises:
            TooLargeError: it is.
        """
        length = self.headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._max_bytes:
            raise TooLargeError(
                f"body of {length} bytes, but this path takes at most {self._limit}; send less"
            )

    async def drain(self) -> bool:
        """Throw the rest of the body away, within limits; True if all of it was read.

        A client that is still sending when its connection closes sees a reset instead of its answer.
        """
        if self.headers.get("expect", "").lower() == "100-continue" and not self._received:
            return False
        with suppress(RequestError, TimeoutError):
            async with asyncio.timeout(self._timeout_s):
                while not self._complete and self._received <= _DRAINED_BYTES:
                    await self._next()
        return self._complete

    async def _next(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._complete = True
            raise RequestError("the client went away before its body was complete")
        self._received += len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        return message


async def read_images(scope: Scope, body: LimitedBody, settings: EdgeSettings) -> Sequence[bytes]:
    """Read a request's body to its end and take the images out of it.

    Raises:
        TooLargeError: more bytes or images than the node accepts.
        UnsupportedMediaError: the content type carries no images.
        SlowBodyError: the body did not arrive in time.
        RequestError: the client went away, or the body is not what its content type says.
    """
    if upgrade := body.headers.get("upgrade"):
        # The server's parser drops the body of a request that asks to upgrade the protocol.
        raise RequestError(
            f"request asks for 'upgrade: {upgrade}', which this node does not support; send it as plain HTTP/1.1"
        )
    content_type = body.headers.get("content-type", "").partition(";")[0].strip().lower()
    data = await body.read()
    if content_type == "multipart/form-data":
        images = await _from_multipart(scope, data, body.headers["content-type"], settings)
    else:
        images = _from_body(data, content_type)
    if not images:
        raise RequestError(f"0 images in the request, expected 1 to {settings.max_images}; send at least one")
    if len(images) > settings.max_images:
        raise TooLargeError(
            f"{len(images)} images in one request, expected 1 to {_most_images(settings)}; split them up"
        )
    return images


def _most_images(settings: EdgeSettings) -> str:
    return f"{settings.max_images} ({settings.variable('max_images')})"


def _from_body(body: bytes, content_type: str) -> Sequence[bytes]:
    if content_type in _RAW_TYPES or content_type.startswith("image/"):
        return [body]
    if content_type == "application/json":
        return _from_json(body)
    raise UnsupportedMediaError(
        f"content type '{content_type}' carries no image this node reads; send the image itself as image/jpeg, "
        "image/png or image/webp, or multipart/form-data, or application/json with base64"
    )


def _from_json(body: bytes) -> Sequence[bytes]:
    try:
        content = ImagesAsJson.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "body"
        raise RequestError(
            f'JSON: {place}: {first["msg"]}; expected {{"image": "<base64>"}} or {{"images": ["<base64>", …]}}'
        ) from error
    if (content.image is None) == (content.images is None):
        raise RequestError('JSON: expected either "image" or "images", each as base64')
    texts = content.images if content.images is not None else [content.image or ""]
    return [_from_base64(text, number) for number, text in enumerate(texts, start=1)]


def _from_base64(text: str, number: int) -> bytes:
    encoded = text.partition(",")[2] if text.startswith("data:") else text
    # The line breaks of MIME and the URL-safe alphabet are base64 too.
    plain = "".join(encoded.split()).replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(plain, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(f"JSON: image {number} is not base64: {error}; encode the file's bytes") from error


def replayed(data: bytes) -> Receive:
    """An ASGI `receive` that returns a body that has already been read."""

    async def receive() -> Message:
        return {"type": "http.request", "body": data, "more_body": False}

    return receive


async def _from_multipart(
    scope: Scope, data: bytes, content_type: str, settings: EdgeSettings
) -> Sequence[bytes]:
    _, options = parse_options_header(content_type)
    if not data.rstrip().endswith(b"--" + options.get(b"boundary", b"") + b"--"):
        # The parser would silently drop the last part.
        raise RequestError("multipart: the body ends before its last boundary; send the whole body again")

    try:
        async with Request(scope, replayed(data)).form(max_files=settings.max_images, max_fields=0) as form:
            parts = [part for _, part in form.multi_items()]
            return [await part.read() for part in parts if isinstance(part, UploadFile)]
    except (UnicodeError, LookupError) as error:
        raise RequestError(f"multipart: {error}; leave the charset out of the content type") from error
    except (HTTPException, MultiPartException) as error:
        text = error.detail if isinstance(error, HTTPException) else error.message
        kind = TooLargeError if "Too many files" in text else RequestError
        raise kind(
            f"multipart: {text}; send 1 to {_most_images(settings)} files and no other fields"
        ) from error
