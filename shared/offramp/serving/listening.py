"""Takes a port, or says why it cannot be taken."""

from __future__ import annotations

import socket

from offramp.errors import ConfigError


def listening_socket(
    host: str, port: int, *, backlog: int | None = None, instead: str = "another --port or --host"
) -> socket.socket:
    """Listen on an address of this machine; port 0 takes a free one.

    Args:
        host: name or address to listen on.
        port: 0 to 65535.
        backlog: how many connections may wait to be accepted; the system's default if None.
        instead: which option to change, for the error.

    Raises:
        ConfigError: the port is taken, or the address is not one of this machine.
    """
    try:
        return socket.create_server((host, port), backlog=backlog)
    except OSError as error:
        raise cannot_listen(host, port, error, instead=instead) from error


def cannot_listen(
    host: str, port: int, why: Exception, *, instead: str = "another --port or --host"
) -> ConfigError:
    """The error that says why a port cannot be taken, and which option to change."""
    # Python appends the address to the system's message.
    reason = str(why.strerror).partition(" (while")[0] if isinstance(why, OSError) else str(why)
    return ConfigError(f"cannot listen on {host}:{port}: {reason}; choose {instead}")
