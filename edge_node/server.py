"""Runs the REST interface on uvicorn: takes the port, and stops without losing a request."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import Any

from edge_node.settings import EdgeSettings
from offramp.bundle import Manifest
from offramp.logs import line
from offramp.serving.access.settings import warn_if_open
from offramp.serving.asgi import ASGIApp
from offramp.serving.http.server import HttpConfig, HttpServer, ignore_signals
from offramp.serving.listening import listening_socket

# The event loop accepts one connection per socket in each round, and a busy node has few rounds.
LISTENERS = 8

_log = logging.getLogger("edge_node")


def bound_socket(settings: EdgeSettings) -> socket.socket:
    """Take the port, before anything costly is loaded.

    Raises:
        ConfigError: the port is taken, or the address is not one of this machine.
    """
    return listening_socket(settings.host, settings.port, backlog=2048)


def http_server(app: ASGIApp, settings: EdgeSettings) -> HttpServer:
    """A server for an app that is ready."""
    return HttpServer(http_config(app, settings))


def http_config(app: ASGIApp | Callable[[], ASGIApp], settings: EdgeSettings, **more: Any) -> HttpConfig:
    """uvicorn's settings for this node.

    Raises:
        ConfigError: a certificate or its key is not fit to be used, or the process may not have so many connections.
    """
    return HttpConfig(app, settings.http_limits, certificates=settings.certificate_files, **more)


def log_ready(settings: EdgeSettings, manifest: Manifest, blocks: tuple[int, int], address: str) -> None:
    """Log that this node answers requests, and where."""
    warn_if_open(settings, settings.host)
    _log.info(
        line(
            "ready",
            tier=settings.tier,
            address=address,
            blocks=f"{blocks[0]}-{blocks[1]}",
            runtime=settings.runtime,
            bundle=manifest.bundle_id,
        )
    )


async def serve(app: ASGIApp, listening: socket.socket, settings: EdgeSettings) -> None:
    """Answer requests until SIGTERM or SIGINT, then finish the ones in progress."""
    ignore_signals()
    listeners = [listening, *(listening.dup() for _ in range(LISTENERS - 1))]
    await http_server(app, settings).serve(sockets=listeners)
