"""What an application may ask about the connection that a request came on, by the request's ASGI scope."""

from __future__ import annotations

import asyncio
from ipaddress import IPv6Address, ip_address
from typing import Protocol

from offramp.serving.asgi import ASGIApp, Receive, Scope, Send
from offramp.serving.http.door import Door

_CONNECTION = "offramp.connection"


class ClientConnection(Protocol):
    """The connection that a request came on, as an application sees it."""

    door: Door
    is_lost: bool

    @property
    def has_much_to_come(self) -> bool:
        """Whether so much of a request is not there yet that it had better not be sent, if its answer is known."""
        ...

    @property
    def is_all_here(self) -> bool:
        """Whether all requests that have begun have come as a whole."""
        ...

    def rest(self) -> None:
        """Leave the connection unread for a while if refusals come too fast; call this after a refusal."""
        ...


def put_connection(scope: Scope, connection: ClientConnection) -> None:
    """Tell a request's scope the connection it came on."""
    scope["state"][_CONNECTION] = connection


def connection_of(scope: Scope) -> ClientConnection | None:
    """The connection that a request came on; None under a server that is not ours."""
    found: ClientConnection | None = scope.get("state", {}).get(_CONNECTION)
    return found


def client_of(scope: Scope) -> str:
    """Who asks, as far as fair shares are concerned: by the name of its key, or else by its address."""
    caller = scope.get("state", {}).get("caller")
    return f"key {caller.name}" if caller and caller.name else client_at(scope.get("client"))


def client_at(address: tuple[str, int] | None) -> str:
    """The client behind an address; whoever has one IPv6 address has a network of them (/64)."""
    if address is None:
        return ""
    host = address[0]
    if ":" not in host:
        return host
    found = ip_address(host.partition("%")[0])
    assert isinstance(found, IPv6Address)
    if found.ipv4_mapped:
        return str(found.ipv4_mapped)
    return str(IPv6Address(int(found) >> 64 << 64))


def is_all_here(scope: Scope) -> bool:
    """Whether a request's body is known to have come as a whole, so that reading it waits for nobody."""
    connection = connection_of(scope)
    return connection is not None and connection.is_all_here


def is_draining(scope: Scope) -> bool:
    """Whether the server is about to stop, so that new requests had better go elsewhere."""
    connection = connection_of(scope)
    return connection is not None and connection.door.is_draining


def has_left(scope: Scope) -> bool:
    """Whether the client's connection is gone, so that nobody waits for the answer."""
    connection = connection_of(scope)
    return connection is not None and connection.is_lost


async def until_left(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Run an application; that it is cancelled because its client has left is no error."""
    try:
        await app(scope, receive, send)
    except asyncio.CancelledError:
        if not has_left(scope):
            raise


def closing(scope: Scope) -> dict[str, str]:
    """The header of a refusal: the connection closes if much of the request is still to come."""
    connection = connection_of(scope)
    return {"connection": "close"} if connection is not None and connection.has_much_to_come else {}
