"""A connection before it is encrypted: it is counted, and it has as long as a head to become one."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Coroutine, Generator
from typing import Any, cast

from offramp.serving.http.connection import Connection


class Handshake(asyncio.Protocol):
    """Encrypts a connection that was admitted, and hands it over.

    A server that asyncio encrypts itself learns of a connection only after its handshake, for which asyncio waits a
    minute, and for any number of them.
    """

    def __init__(self, *, encryption: ssl.SSLContext, **given: Any) -> None:
        """Encrypt with `encryption`; `given`: what uvicorn gives to a connection."""
        self._connection = Connection(**given)
        self._loop = self._connection.loop
        self._encryption = encryption
        self._early: list[bytes] = []
        self._shaking: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake, if there is room for one more connection."""
        transport = cast("asyncio.Transport", transport)
        if self._connection.admitted(transport):
            # It has to take over before anything is read: otherwise it would miss how the client begins.
            encrypted = _Started(
                self._loop.start_tls(
                    transport,
                    self,
                    self._encryption,
                    server_side=True,
                    ssl_handshake_timeout=self._connection.door.limits.head_s,
                )
            )
            self._shaking = self._loop.create_task(self._shake_hands(transport, encrypted))
        else:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        """Keep what comes in one piece with the end of the handshake."""
        self._early.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone before it was encrypted."""
        self._connection.door.remove(self._connection)

    async def _shake_hands(
        self, transport: asyncio.Transport, handshake: Awaitable[asyncio.Transport | None]
    ) -> None:
        connection = self._connection
        try:
            encrypted = await handshake
        except OSError:  # what is wrong with its certificate is logged where it is looked at
            encrypted = None
        if encrypted is None or encrypted.is_closing():
            transport.abort()
            connection.door.remove(connection)
            return
        encrypted.set_protocol(connection)
        connection.connection_made(encrypted)
        for data in self._early:
            connection.data_received(data)


class _Started:
    """A coroutine that has run as far as it could without waiting; the rest of it runs when it is awaited."""

    def __init__(self, coroutine: Coroutine[Any, Any, asyncio.Transport | None]) -> None:
        self._coroutine = coroutine
        self._awaited = coroutine.send(None)

    def __await__(self) -> Generator[Any, Any, asyncio.Transport | None]:
        awaited = self._awaited
        try:
            while True:
                try:
                    given = yield awaited
                except BaseException as error:  # noqa: BLE001 - it belongs to the coroutine
                    awaited = self._coroutine.throw(error)
                else:
                    awaited = self._coroutine.send(given)
        except StopIteration as done:
            found: asyncio.Transport | None = done.value
            return found
