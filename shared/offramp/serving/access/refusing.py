"""Refusals that are sent before an application sees the request."""

from __future__ import annotations

import json

from offramp.serving.asgi import Receive, Scope, Send


async def refuse(
    scope: Scope, receive: Receive, send: Send, status: int, code: str, message: str, **headers: str
) -> None:
    """Answer a request with an error, and a websocket by not accepting it."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": code})
        return
    body = json.dumps({"error": message, "code": code}).encode()
    raw = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    raw += [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
