"""The front of the dashboard's server: what gets past it, and how many pages may be open."""

from __future__ import annotations

from nicegui import Client

from offramp.serving.asgi import ASGIApp, Message, Receive, Scope, Send

# A page that is open takes one or two megabytes here.
MOST_OPEN = 64
# Pages that were sent, but whose browser has not connected yet; the oldest gives way.
MOST_AWAITED = 32
# The largest photo that an edge node takes by default, and what an upload adds.
_MAX_BYTES = 32_000_000 + 65_536

_PATHS = {"/", "/sign-in"}
_BELOW = ("/_nicegui/", "/_nicegui_ws/")
_HEADERS = [
    # No other page may put this one into a frame and have somebody click on it.
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
]


class Door:
    """An ASGI application in front of the page's: knows its paths, and bounds what strangers can make it hold."""

    def __init__(self, app: ASGIApp) -> None:
        """Stand before `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        if path == "/healthz":
            await answer(send, 200, '{"status":"alive"}', kind="application/json")
        elif path not in _PATHS and not path.startswith(_BELOW):
            await answer(send, 404, "The dashboard has no such page.")
        elif not make_room() and path == "/":
            text = f"{MOST_OPEN} pages of this dashboard are open, the most it holds. Close one, or try again later."
            await answer(send, 503, text, (b"retry-after", b"10"))
        else:
            await self._app(scope, _limited(receive), _with_headers(send))


def make_room() -> bool:
    """Forget the oldest pages whose browsers never connected; says whether one more may be opened."""
    awaited = [client for client in Client.instances.values() if not client.has_socket_connection]
    for client in sorted(awaited, key=lambda one: one.created)[: max(0, len(awaited) - MOST_AWAITED + 1)]:
        client.delete()
    return sum(client.has_socket_connection for client in Client.instances.values()) < MOST_OPEN


async def answer(
    send: Send, status: int, text: str, *headers: tuple[bytes, bytes], kind: str = "text/plain; charset=utf-8"
) -> None:
    """Send a whole answer."""
    body = text.encode()
    raw = [
        (b"content-type", kind.encode()),
        (b"content-length", str(len(body)).encode()),
        *_HEADERS,
        *headers,
    ]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *_HEADERS]
        await send(message)

    return sending


def _limited(receive: Receive) -> Receive:
    left = _MAX_BYTES

    async def receiving() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        return message if left >= 0 else {"type": "http.disconnect"}

    return receiving
