"""Runs the REST interface on uvicorn: takes the port, and stops without losing a request."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from edge_node.settings import EdgeSettings
from offramp.bundle import Manifest
from offramp.logs import line
from offramp.serving.access.settings import warn_if_open
from offramp.serving.asgi import ASGIApp
from offramp.serving.http.server import HttpConfig, HttpServer
from offramp.serving.listening import in_address, listening_file, listening_socket

# The event loop accepts one connection per socket in each round, and a busy node has few rounds.
LISTENERS = 8
_BACKLOG = 2048

_log = logging.getLogger("edge_node")


def bound_socket(settings: EdgeSettings) -> AbstractContextManager[socket.socket]:
    """Take the port or the Unix socket, before anything costly is loaded.

    Raises:
        ConfigError: it is taken, or the address is not one of this machine.
    """
    if settings.unix_socket:
        return listening_file(settings.unix_socket, backlog=_BACKLOG, instead="another --unix-socket")
    return listening_socket(settings.host, settings.port, backlog=_BACKLOG)


def address_of(settings: EdgeSettings, listening: socket.socket) -> str:
    """Where a node listens: HOST:PORT, or unix:FILE."""
    if settings.unix_socket:
        return f"unix:{settings.unix_socket}"
    return in_address(settings.host, listening.getsockname()[1])


def http_server(app: ASGIApp, settings: EdgeSettings, *, handles_signals: bool = True) -> HttpServer:
    """A server for an app that is ready; with `handles_signals`, SIGTERM and SIGINT stop it, and then do nothing."""
    return HttpServer(http_config(app, settings), handles_signals=handles_signals)


def http_config(app: ASGIApp | Callable[[], ASGIApp], settings: EdgeSettings, **more: Any) -> HttpConfig:
    """uvicorn's settings for this node.

    Raises:
        ConfigError: a certificate or its key is not fit to be used, or the process may not have so many connections.
    """
    return HttpConfig(app, settings.http_limits, certificates=settings.certificate_files, **more)


def log_ready(settings: EdgeSettings, manifest: Manifest, blocks: tuple[int, int], address: str) -> None:
    """Log that this node answers requests, and where."""
    if not settings.unix_socket:
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
    listeners = [listening, *(listening.dup() for _ in range(LISTENERS - 1))]
    await http_server(app, settings).serve(sockets=listeners)
