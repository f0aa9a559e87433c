"""The gate in front of an HTTP server: each route needs the right that a table says, or none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from offramp.serving.access.access import NOBODY, Access
from offramp.serving.access.keys import Caller, Right
from offramp.serving.access.refusing import refuse
from offramp.serving.asgi import ASGIApp, Receive, Scope, Send

# What a caller needs who has no right in particular: a key that is valid.
KNOWN: Literal["known"] = "known"
# By route: method and path; a path that ends with `*` stands for all that begin like it. None: open to everybody.
Rights = Mapping[tuple[str, str], Right | Literal["known"] | None]

_CHALLENGE = 'Bearer realm="offramp", Basic realm="offramp"'


class Gate:
    """An ASGI application in front of another one, which lets nobody without the right through.

    Whoever gets through is in the scope's state as `caller`. A path that the table does not have leads nowhere, so
    whoever is known may see that.
    """

    def __init__(
        self, app: ASGIApp, access: Access, rights: Rights, *, refused: Callable[[str], None] = lambda _: None
    ) -> None:
        """Stand before `app`; `refused` is called with the code of each refusal."""
        self._app = app
        self._access = access
        self._rights = {route: right for route, right in rights.items() if not route[1].endswith("*")}
        self._below = [
            (method, path[:-1], right) for (method, path), right in rights.items() if path.endswith("*")
        ]
        self._refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        shown = next((value for name, value in scope["headers"] if name == b"authorization"), None)
        caller = self._access.caller(shown)
        refusal = self._refusal(scope["method"], scope["path"], caller)
        if refusal is None:
            scope.setdefault("state", {})["caller"] = caller or NOBODY
            await self._app(scope, receive, send)
            return
        status, code, message = refusal
        self._refused(code)
        more = {"www_authenticate": _CHALLENGE} if status == 401 else {}
        await refuse(scope, receive, send, status, code, message, **more)

    def _refusal(self, method: str, path: str, caller: Caller | None) -> tuple[int, str, str] | None:
        right = self._right("GET" if method == "HEAD" else method, path)
        if right is None:
            return None
        if caller is None:
            return (
                401,
                "unauthenticated",
                "this key or token is not valid here, or not any more; get another one",
            )
        if caller is NOBODY:
            text = "this path needs a key; send 'Authorization: Bearer KEY', or the key as a password"
            return 401, "unauthenticated", text
        if right != KNOWN and right not in caller.rights:
            has = " and ".join(sorted(caller.rights)) or "no right"
            return (
                403,
                "forbidden",
                f"this path needs the right {right}, and {caller.name} has {has}; use another key",
            )
        return None

    def _right(self, method: str, path: str) -> Right | Literal["known"] | None:
        if (method, path) in self._rights:
            return self._rights[method, path]
        return next(
            (right for one, start, right in self._below if method == one and path.startswith(start)), KNOWN
        )
