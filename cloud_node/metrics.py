"""The cloud node's figures for Prometheus, over HTTP with the same limits and rights as an edge node's."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace

from cloud_node.settings import CloudSettings
from offramp.serving.access.access import Access
from offramp.serving.access.gate import Gate, Rights
from offramp.serving.access.hosts import CheckedHosts
from offramp.serving.access.keys import Right
from offramp.serving.access.refusing import refuse
from offramp.serving.asgi import Receive, Scope, Send
from offramp.serving.http.limits import HttpLimits
from offramp.serving.http.server import HttpConfig, HttpServer
from offramp.serving.listening import listening_socket
from offramp.serving.metrics import CONTENT_TYPE
from offramp.serving.node import Node

# What a caller needs for each route; None: nothing.
RIGHTS: Rights = {("GET", "/metrics"): Right.WATCH, ("GET", "/healthz"): None}
_CONNECTIONS = 64


class MetricsServer:
    """An HTTP server on a port of its own, in the node's event loop."""

    def __init__(self, node: Node, settings: CloudSettings, port: int) -> None:
        """Take the port; nothing is answered before `start`.

        Raises:
            ConfigError: the port is taken.
        """
        self._node = node
        self._listening: socket.socket = listening_socket(
            settings.host, port, instead="another --metrics-port"
        )
        self.port: int = self._listening.getsockname()[1]
        access = Access(settings.access_files)
        gate = Gate(self._answer, access, RIGHTS, refused=node.metrics.refused)
        # Where keys say who may watch, a scraper needs no certificate of its own.
        files = (
            settings.certificate_files
            if access.is_open
            else replace(settings.certificate_files, authority=None)
        )
        config = HttpConfig(
            CheckedHosts(gate, settings.hosts, setting=settings.variable("allowed_hosts")),
            HttpLimits(connections=_CONNECTIONS, grace_s=settings.grace_s),
            certificates=files,
        )
        self._server = HttpServer(config, handles_signals=False)
        self._serving: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start to answer."""
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._listening]))

    async def stop(self) -> None:
        """Stop answering."""
        if self._serving is not None:
            self._server.should_exit = True
            await self._serving

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        if ("GET", path) not in RIGHTS:
            await refuse(scope, receive, send, 404, "not_found", f"{path}: no such path; /metrics is one")
        elif method not in ("GET", "HEAD"):
            text = f"{method} {path}: this path takes GET"
            await refuse(scope, receive, send, 405, "method_not_allowed", text, allow="GET, HEAD")
        elif path == "/metrics":
            await _send(send, self._node.metrics.text(), CONTENT_TYPE)
        else:
            await _send(send, b'{"status":"alive"}', "application/json")


async def _send(send: Send, body: bytes, content_type: str) -> None:
    headers = [
        (b"content-type", content_type.encode()),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
