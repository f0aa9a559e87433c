"""Takes the images out of an HTTP request: a raw body, multipart, or JSON with base64."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from edge_node.body import LimitedBody
from edge_node.json_images import images_in_json
from edge_node.multipart import images_in_multipart
from edge_node.settings import EdgeSettings
from offramp.errors import RequestError, TooLargeError, UnsupportedMediaError

# Content types that curl, requests and browsers send if nobody sets one.
_RAW_TYPES = {"", "application/octet-stream", "application/x-www-form-urlencoded"}
# A larger body is taken apart in a thread, for the event loop is everybody's; one at a time, for it takes memory.
_AT_ONCE_BYTES = 1_000_000


class ImageReader:
    """Reads the images of requests, within a node's settings."""

    def __init__(self, settings: EdgeSettings) -> None:
        self._settings = settings
        self._most = f"{settings.max_images} ({settings.variable('max_images')})"
        self._large = asyncio.Semaphore(1)

    async def read(self, body: LimitedBody) -> Sequence[bytes]:
        """Read a request's body to its end and take the images out of it.

        Raises:
            TooLargeError: more bytes or images than the node accepts.
            UnsupportedMediaError: the content type carries no images, or the body is compressed in a way that is not
                read.
            OverloadError: there is too little memory for the body.
            SlowBodyError: the body did not arrive in time.
            RequestError: the client went away, or the body is not what its content type says.
        """
        if upgrade := body.headers.get("upgrade"):
            # The server's parser drops the body of a request that asks to upgrade the protocol.
            raise RequestError(
                f"request asks for 'upgrade: {upgrade}', which this node does not support; send it as plain HTTP/1.1"
            )
        content_type = body.headers.get("content-type", "")
        take_apart = self._way(content_type)
        data = await body.read()
        if take_apart is None:
            return [data]
        if len(data) <= _AT_ONCE_BYTES:
            images = take_apart(data)
        else:
            async with self._large:
                images = await asyncio.to_thread(take_apart, data)
        return self._counted(images)

    def _way(self, content_type: str) -> Callable[[bytes], Sequence[bytes]] | None:
        """How to take images out of a body; None if the body is one."""
        kind = content_type.partition(";")[0].strip().lower()
        if kind in _RAW_TYPES or kind.startswith("image/"):
            return None
        most = self._settings.max_images
        match kind:
            case "application/json":
                return partial(images_in_json, most_images=most)
            case "multipart/form-data":
                return partial(
                    images_in_multipart, content_type=content_type, most_images=most, most_in_words=self._most
                )
            case _:
                raise UnsupportedMediaError(
                    f"content type '{kind}' carries no image this node reads; send the image itself as image/jpeg, "
                    "image/png or image/webp, or multipart/form-data, or application/json with base64"
                )

    def _counted(self, images: Sequence[bytes]) -> Sequence[bytes]:
        most = self._settings.max_images
        if not images:
            raise RequestError(f"0 images in the request, expected 1 to {most}; send at least one")
        if len(images) > most:
            raise TooLargeError(
                f"{len(images)} images in one request, expected 1 to {self._most}; split them up"
            )
        return images
