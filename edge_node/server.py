"""uvicorn around the REST interface: the port, and leaving without losing a request."""

from __future__ import annotations

import signal
import socket

import uvicorn
from starlette.types import ASGIApp

from edge_node.settings import EdgeSettings
from offramp.errors import ConfigError
from offramp.settings import reason_of


def bound_socket(settings: EdgeSettings) -> socket.socket:
    """Take the port, before anything costly is loaded.

    Raises:
        ConfigError: the port is taken, or the address is not one of this machine.
    """
    try:
        return socket.create_server((settings.host, settings.port), backlog=2048)
    except OSError as error:
        reason = reason_of(error)
        raise ConfigError(
            f"cannot listen on {settings.host}:{settings.port}: {reason}; choose another --port or --host"
        ) from error


def http_server(app: ASGIApp, settings: EdgeSettings) -> uvicorn.Server:
    """uvicorn, as this node wants it."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        log_level="warning",  # its greetings and farewells; ours say the same and more
        lifespan="off",
        ws="none",
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=max(1, round(settings.grace_s)),
    )
    return uvicorn.Server(config)


async def serve(app: ASGIApp, listening: socket.socket, settings: EdgeSettings) -> None:
    """Answer requests until SIGTERM or SIGINT, then finish those under way."""
    # When it is done, uvicorn sends itself the signal again; the node still has an upstream to take leave of.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    await http_server(app, settings).serve(sockets=[listening])
