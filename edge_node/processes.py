"""Runs one edge node as several processes behind one port, to use several cores.

`workers.py` starts, watches and replaces the processes. They share only the port, the policy and the metrics: each
loads its own blocks and connects to the upstream itself.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from edge_node.app import edge_app
from edge_node.policy import Policy
from edge_node.server import LISTENERS, address_of, http_config, log_ready
from edge_node.settings import EdgeSettings
from edge_node.workers import Workers
from offramp.bundle import Manifest
from offramp.errors import ConfigError, OfframpError
from offramp.logs import start_logging
from offramp.serving.child import end_with_parent
from offramp.serving.metrics import SHARED_BY, NodeMetrics
from offramp.serving.running import running_node, spare_collections

_REFRESH_S = 1.0


def serve_in_processes(
    settings: EdgeSettings, manifest: Manifest, blocks: tuple[int, int], listening: socket.socket
) -> None:
    """Answer requests until SIGTERM or SIGINT, then let every process finish the ones in progress.

    Raises:
        ConfigError: a process did not start; its log line says why.
    """
    with TemporaryDirectory(prefix="offramp-") as directory:
        os.environ[SHARED_BY] = directory
        address = address_of(settings, listening)
        file = settings.policy_file or Path(directory) / "policy.json"
        share = settings.share()
        policy = Policy(manifest, file, outlives_restart=file == settings.policy_file)
        start = partial(EdgeProcess, share, blocks, address, policy, parent=os.getpid())
        config = http_config(start, share, lifespan="on", factory=True, workers=settings.processes)
        # A Unix socket has nothing to distribute: all processes accept from the one.
        own = [] if settings.unix_socket else [_Port(listening) for _ in range(LISTENERS - 1)]
        workers = Workers(config, [listening, *own])
        workers.run()
        if workers.has_failed:
            raise ConfigError("a process of this node did not start; the line above says why")


class _Port(socket.socket):
    """A placeholder that becomes a separate socket on the port of `listening` in each process it is sent to.

    With one shared socket, the process that wakes first takes all waiting connections; with separate sockets, the
    kernel distributes them. The shared socket stays open, so that connections can wait there while no process listens.
    """

    def __init__(self, listening: socket.socket) -> None:
        super().__init__(listening.family, listening.type)
        # Set only after binding: before, it would let us take a port that another program shares.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._address = listening.getsockname()
        self._only_v6 = listening.family == socket.AF_INET6 and bool(
            listening.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        )

    def __reduce__(self) -> tuple[Callable[..., socket.socket], tuple[Any, ...]]:
        return _own_socket, (self.family, self._address, self._only_v6)


def _own_socket(family: int, address: tuple[Any, ...], only_v6: bool) -> socket.socket:
    # Only bound: uvicorn makes it listen once the process can answer.
    own = socket.socket(family)
    if family == socket.AF_INET6:
        own.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_v6)
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    own.bind(address)
    return own


class EdgeProcess:
    """The app of one process: the node lives as long as uvicorn serves it."""

    def __init__(
        self, settings: EdgeSettings, blocks: tuple[int, int], address: str, policy: Policy, *, parent: int
    ) -> None:
        end_with_parent(parent)
        start_logging(settings.log_level)
        self._settings = settings
        self._blocks = blocks
        self._address = address
        self._policy = policy
        self._stack = AsyncExitStack()
        self._app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or handle start-up and shutdown."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            assert self._app is not None, "requests come only after start-up"
            await self._app(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self._start()
        except OfframpError as error:
            await self._stack.aclose()
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._stack.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    async def _start(self) -> None:
        bundle = self._settings.load_bundle()
        node = await self._stack.enter_async_context(running_node(self._settings, bundle, self._blocks))
        self._app = edge_app(node, self._settings, self._policy)
        refreshing = asyncio.create_task(_refresh(node.metrics))
        self._stack.callback(refreshing.cancel)
        log_ready(self._settings, bundle.manifest, self._blocks, self._address)
        spare_collections()


async def _refresh(metrics: NodeMetrics) -> None:
    # Prometheus may ask another process of this node, which reports the values that this one wrote last.
    while True:
        await asyncio.sleep(_REFRESH_S)
        metrics.refresh()
