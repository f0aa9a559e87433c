"""From an HTTP request to the bytes of its images: raw body, multipart, or JSON with base64."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Sequence

from offramp.errors import RequestError, TooLargeError, UnsupportedMediaError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.types import Message, Receive, Scope

from edge_node.errors import SlowBodyError
from edge_node.settings import EdgeSettings

# What curl, requests and browsers say of a body of which nobody told them the type.
_RAW_TYPES = {"", "application/octet-stream", "application/x-www-form-urlencoded"}


class ImagesAsJson(BaseModel):
    """A JSON body: one image or several, each as base64, with or without a `data:` prefix."""

    model_config = ConfigDict(extra="forbid")

    image: str | None = None
    images: list[str] | None = Field(default=None)


async def read_images(scope: Scope, receive: Receive, settings: EdgeSettings) -> Sequence[bytes]:
    """Read a request's body to its end and take the images out of it.

    Raises:
        TooLargeError: more bytes or images than the node accepts.
        UnsupportedMediaError: a content type that carries no images.
        SlowBodyError: the body did not arrive in time.
        RequestError: the client went away, or the body is not what its content type says.
    """
    headers = Headers(scope=scope)
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    _check_length(headers.get("content-length"), settings)
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            if content_type == "multipart/form-data":
                images = await _from_multipart(scope, _limited(receive, settings), settings)
            else:
                body = await _read_all(_limited(receive, settings))
                images = _from_body(body, content_type)
    except TimeoutError as error:
        raise SlowBodyError(
            f"the body did not arrive within {settings.body_timeout_s:g} s; send it again, faster or smaller"
        ) from error
    if not 1 <= len(images) <= settings.max_images:
        kind = TooLargeError if images else RequestError
        raise kind(f"{len(images)} images in one request, expected 1 to {settings.max_images}; split them up")
    return images


def _check_length(length: str | None, settings: EdgeSettings) -> None:
    if length is not None and length.isdecimal() and int(length) > settings.max_body_bytes:
        raise TooLargeError(
            f"body of {length} bytes, the most this node takes is {settings.max_body_bytes}; send a smaller image"
        )


def _limited(receive: Receive, settings: EdgeSettings) -> Receive:
    # A chunked body tells no length beforehand.
    received = 0

    async def limited() -> Message:
        nonlocal received
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestError("the client went away before its body was complete")
        received += len(message.get("body", b""))
        if received > settings.max_body_bytes:
            raise TooLargeError(
                f"body of more than {settings.max_body_bytes} bytes, the most this node takes; send a smaller image"
            )
        return message

    return limited


async def _read_all(receive: Receive) -> bytes:
    chunks, more = [], True
    while more:
        message = await receive()
        chunks.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(chunks)


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
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(f"JSON: image {number} is not base64: {error}; encode the file's bytes") from error


async def _from_multipart(scope: Scope, receive: Receive, settings: EdgeSettings) -> Sequence[bytes]:
    try:
        async with Request(scope, receive).form(max_files=settings.max_images, max_fields=0) as form:
            parts = [part for _, part in form.multi_items()]
            return [await part.read() for part in parts if isinstance(part, UploadFile)]
    except (HTTPException, MultiPartException) as error:
        text = error.detail if isinstance(error, HTTPException) else error.message
        kind = TooLargeError if "Too many files" in text else RequestError
        raise kind(f"multipart: {text}; send 1 to {settings.max_images} files and no other fields") from error
