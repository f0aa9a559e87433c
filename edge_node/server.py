"""Runs the REST interface on uvicorn: takes the port, and stops without losing a request."""

from __future__ import annotations

import logging
import signal
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from edge_node.connection import OneWriteProtocol
from edge_node.settings import EdgeSettings
from offramp.bundle import Manifest
from offramp.logs import line
from offramp.serving.access.certificates import CertificateFiles
from offramp.serving.access.settings import warn_if_open
from offramp.serving.access.tls import FollowingContext
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


def http_server(app: ASGIApp, settings: EdgeSettings) -> uvicorn.Server:
    """A uvicorn server for an app that is ready."""
    return uvicorn.Server(http_config(app, settings, lifespan="off"))


def http_config(app: ASGIApp | Callable[[], ASGIApp], settings: EdgeSettings, **more: Any) -> uvicorn.Config:
    """uvicorn's settings for this node.

    Raises:
        ConfigError: a certificate or its key is not fit to be used.
    """
    if settings.certificate_files.given:
        FollowingContext.of(settings.certificate_files)
        more["ssl_context_factory"] = partial(_encrypted, settings.certificate_files)
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        log_level="warning",  # our own log lines replace those for start and stop
        http=OneWriteProtocol,
        ws="none",
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=max(1, round(settings.grace_s)),
        **more,
    )


def _encrypted(files: CertificateFiles, *_: object) -> ssl.SSLContext:
    return FollowingContext.of(files)


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
    # When uvicorn has stopped, it raises the signal again, but the node still has to close its upstream.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    listeners = [listening, *(listening.dup() for _ in range(LISTENERS - 1))]
    await http_server(app, settings).serve(sockets=listeners)
