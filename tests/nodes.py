"""Real nodes for tests, on ports of their own, inside the test's event loop."""

from __future__ import annotations

import asyncio
import io
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cloud_node.server import CloudServer
from cloud_node.settings import CloudSettings
from edge_node.app import edge_app
from edge_node.server import bound_socket, http_server
from edge_node.settings import EdgeSettings
from offramp.bundle import Bundle
from offramp.serving.listening import in_address
from offramp.serving.running import block_range, running_node

Pixels = NDArray[np.uint8]


@asynccontextmanager
async def running_cloud(
    bundle: Bundle,
    *,
    blocks: str = "2-3",
    port: int = 0,
    upstream: str | None = None,
    tier: str = "cloud",
    **given: Any,
) -> AsyncIterator[str]:
    """A cloud node; yields HOST:PORT."""
    settings = CloudSettings(
        bundle=bundle.directory, port=port, blocks=blocks, upstream=upstream, tier=tier, drain_s=0.0, **given
    )
    chosen = block_range(settings, bundle.manifest, default=(1, 3))
    async with running_node(settings, bundle, chosen) as node:
        server = CloudServer(node, settings)
        await server.start()
        try:
            yield in_address(settings.host, server.port)
        finally:
            await server.drain()


@asynccontextmanager
async def running_edge(
    bundle: Bundle,
    *,
    upstream: str | None = None,
    blocks: str = "1-1",
    port: int = 0,
    trusting: ssl.SSLContext | None = None,
    **given: Any,
) -> AsyncIterator[httpx.AsyncClient]:
    """An edge node; yields a client that talks to it over HTTP, or over HTTPS if it is `trusting` somebody."""
    given = {"drain_s": 0.0, **given}
    settings = EdgeSettings(bundle=bundle.directory, port=port, blocks=blocks, upstream=upstream, **given)
    chosen = block_range(settings, bundle.manifest, default=(1, 3))
    with bound_socket(settings) as socket:
        async with running_node(settings, bundle, chosen) as node:
            server = http_server(edge_app(node, settings), settings, handles_signals=False)
            serving = asyncio.create_task(server.serve(sockets=[socket]))
            place = in_address(settings.host, socket.getsockname()[1])
            address = f"{'https' if trusting else 'http'}://{place}"
            try:
                async with httpx.AsyncClient(
                    base_url=address, timeout=20, trust_env=False, verify=trusting or True
                ) as client:
                    await _until_up(client)
                    yield client
            finally:
                server.should_exit = True
                await serving


async def _until_up(client: httpx.AsyncClient) -> None:
    # The socket is listening already, so the first answer comes as soon as the server runs.
    (await client.get("/healthz")).raise_for_status()


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """An image as a file of that kind."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(pixels: Pixels) -> bytes:
    """One image as PNG, without loss."""
    return encoded(Image.fromarray(pixels.squeeze()))


async def predict(client: httpx.AsyncClient, image: bytes, **headers: str) -> dict[str, Any]:
    """Ask a node about one image and expect an answer."""
    response = await client.post("/v1/predict", content=image, headers=headers)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def check_refused(response: httpx.Response, status: int, *says: str) -> None:
    """An edge refused, with this status and one error that says this."""
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error", "code"}
    for text in says:
        assert text in body["error"], body["error"]


def closed_port_address() -> str:
    """An address that nothing listens on."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"127.0.0.1:{taken.getsockname()[1]}"


def first_photo(samples: Path, label: str) -> bytes:
    """The first shipped photo of a class."""
    return min((samples / label).iterdir()).read_bytes()
