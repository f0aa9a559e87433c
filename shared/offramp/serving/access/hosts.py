"""The names by which a server may be addressed, so that a page on a foreign host cannot reach it.

A page may send requests to its own host, and its owner decides which address that name leads to (DNS rebinding). What
gives such a request away is its Host header. A request that a page sends to another host than its own has an Origin
header, which gives it away too.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from ipaddress import ip_address

from offramp.serving.access.refusing import refuse
from offramp.serving.asgi import ASGIApp, Receive, Scope, Send

_PARTS = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
# Names that nobody can register, so no foreign page has one.
_RESERVED = (".localhost", ".local", ".internal", ".svc")


class AllowedHosts:
    """Decides by a Host header whether a request is meant for this server.

    Allowed are IP addresses, names without a dot, names that nobody can register, the machine's own name, and those
    that were given.
    """

    def __init__(self, extra: Sequence[str] = ()) -> None:
        """Allow `extra` as well; `*` allows every name."""
        self._every = "*" in extra
        self._given = {name.lower().rstrip(".") for name in extra}
        self._own = {name.lower().rstrip(".") for name in (socket.gethostname(), socket.getfqdn())}
        self._known: set[bytes] = set()

    def allows(self, host: bytes) -> bool:
        """Whether a request with this Host header, with or without a port, is meant for this server."""
        if host in self._known:
            return True
        name = _name(host)
        if not name or not (self._is_given(name) or self._is_local(name)):
            return False
        if len(self._known) < 100:
            self._known.add(host)
        return True

    def lists(self, origin: bytes) -> bool:
        """Whether the page at this origin, such as https://edge.example, was allowed by its name."""
        return self._is_given(_name(origin.partition(b"://")[2]))

    def _is_given(self, name: str) -> bool:
        return self._every or name in self._given

    def _is_local(self, name: str) -> bool:
        if "." not in name or name in self._own or name.endswith(_RESERVED):
            return True
        try:
            ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True


class CheckedHosts:
    """An ASGI application in front of another one: refuses requests, and websockets, that come from a foreign page."""

    def __init__(self, app: ASGIApp, allowed: AllowedHosts, *, setting: str) -> None:
        """Stand before `app`; `setting`: what allows further names, for the refusal."""
        self._app = app
        self._allowed = allowed
        self._setting = setting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
        elif refusal := self._refusal(scope):
            await refuse(scope, receive, send, *refusal)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str, str] | None:
        host, origin = b"", None
        for name, value in scope["headers"]:
            if name == b"host":
                host = value
            elif name == b"origin":
                origin = value
        if not self._allowed.allows(host):
            return (
                421,
                "wrong_host",
                f"'{_shown(host)}' is not a name of this server; {self._setting} allows further names",
            )
        if origin is None or origin.partition(b"://")[2] == host or self._allowed.lists(origin):
            return None
        text = f"a page at '{_shown(origin)}' may not use this server; {self._setting} allows further names"
        return 403, "wrong_origin", text


def _name(host: bytes) -> str:
    found = _PARTS.fullmatch(host)
    return found[1].decode().lower().rstrip(".") if found else ""


def _shown(value: bytes) -> str:
    return value[:100].decode("ascii", "replace")
