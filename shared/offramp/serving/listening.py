"""Takes a port or a Unix socket, or says why it cannot be taken."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from offramp.errors import ConfigError

_EVERYWHERE = "::"  # of both IP versions


def _bare(text: str) -> str:
    bare = text.removeprefix("[").removesuffix("]")
    if len(text) - len(bare) not in (0, 2) or (bare != text and ":" not in bare) or not bare:
        raise ValueError(
            "not an address; write a name, an IPv4 address, or an IPv6 address such as ::1 or [::1]"
        )
    return bare


Host = Annotated[str, Field(min_length=1), AfterValidator(_bare)]
"""A setting: a name or an address; an IPv6 address loses its brackets."""


def in_address(host: str, port: int) -> str:
    """HOST:PORT, or [HOST]:PORT for an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listening_socket(
    host: str, port: int, *, backlog: int | None = None, instead: str = "another --port or --host"
) -> socket.socket:
    """Listen on an address of this machine; port 0 takes a free one.

    Args:
        host: name or address to listen on; `::` listens on all addresses of both IP versions.
        port: 0 to 65535.
        backlog: how many connections may wait to be accepted; the system's default if None.
        instead: which option to change, for the error.

    Raises:
        ConfigError: the port is taken, or the address is not one of this machine.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # A name of both versions, such as localhost, means IPv4.
        family, *_, address = min(found, key=lambda one: one[0] != socket.AF_INET)
        both = host == _EVERYWHERE and socket.has_dualstack_ipv6()
        return socket.create_server(address, family=family, backlog=backlog, dualstack_ipv6=both)
    except OSError as error:
        raise cannot_listen(host, port, error, instead=instead) from error


@contextmanager
def listening_file(path: Path, *, backlog: int | None = None, instead: str) -> Iterator[socket.socket]:
    """Listen on a Unix socket. Its file is removed in the end; what a process left that was killed is replaced.

    Args:
        path: its file; whoever may write to it may connect.
        backlog: how many connections may wait to be accepted; the system's default if None.
        instead: which option to change, for the error.

    Raises:
        ConfigError: another process listens on it, it is another kind of file, or it cannot be made.
    """
    with socket.socket(socket.AF_UNIX) as listening:
        try:
            if path.is_socket() and not _is_in_use(path):
                path.unlink()
            listening.bind(str(path))
            listening.listen(*([] if backlog is None else [backlog]))
        except OSError as error:
            is_other = path.exists() and not path.is_socket()
            reason = "it is no socket" if is_other else error.strerror or str(error)
            raise ConfigError(f"cannot listen on {path}: {reason}; choose {instead}") from error
        try:
            yield listening
        finally:
            path.unlink(missing_ok=True)


def _is_in_use(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(1.0)
        try:
            asking.connect(str(path))
        except ConnectionRefusedError:
            return False
        return True


def cannot_listen(
    host: str, port: int, why: Exception, *, instead: str = "another --port or --host"
) -> ConfigError:
    """The error that says why a port cannot be taken, and which option to change."""
    # Python appends the address to the system's message.
    reason = str(why.strerror).partition(" (while")[0] if isinstance(why, OSError) else str(why)
    return ConfigError(f"cannot listen on {in_address(host, port)}: {reason}; choose {instead}")
