"""Runs an ASGI application behind the limits of an HTTP front door, and stops it without losing a request."""

from __future__ import annotations

import asyncio
import faulthandler
import signal
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any, cast

import uvicorn

from offramp.serving.access.certificates import CertificateFiles
from offramp.serving.access.tls import FollowingContext
from offramp.serving.asgi import ASGIApp
from offramp.serving.http.connection import Connection
from offramp.serving.http.door import Door
from offramp.serving.http.handshake import Handshake
from offramp.serving.http.limits import HttpLimits

# What uvicorn itself needs to notice that it is told to stop, and that nothing is left.
_OVERHEAD_S = 1.0


class HttpConfig(uvicorn.Config):
    """uvicorn's settings, and the door that all connections of a process come through."""

    def __init__(
        self,
        app: ASGIApp | Callable[[], ASGIApp],
        limits: HttpLimits,
        *,
        certificates: CertificateFiles,
        lifespan: str = "off",
        **more: Any,
    ) -> None:
        """Serve `app`, or what it makes with `factory=True`; encrypted if there are certificates.

        Raises:
            ConfigError: a certificate or its key is not fit to be used.
        """
        if certificates.given:
            FollowingContext.of(certificates)  # so that it fails here and not in another process
            more["ssl_context_factory"] = partial(_encrypted, certificates)
        super().__init__(
            app,
            log_config=None,
            access_log=False,
            log_level="error",  # what strangers cause is logged by the door, seldom
            http=Connection,
            ws="none",
            lifespan=cast("Any", lifespan),
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=max(1, round(limits.idle_s)),
            timeout_graceful_shutdown=max(1, round(limits.grace_s)),
            **more,
        )
        self.limits = limits
        self._door: Door | None = None

    def load(self) -> None:
        """Load the app; encrypt connections ourselves, so that they are counted before they are."""
        super().load()
        if self.ssl is not None:
            make: Any = partial(Handshake, encryption=self.ssl)
            self.http_protocol_class, self.ssl = make, None

    @property
    def stops_within_s(self) -> float:
        """Seconds after which a server that was told to stop has ended, or is ended."""
        return self.limits.drain_s + max(1, round(self.limits.grace_s)) + _OVERHEAD_S

    @property
    def door(self) -> Door:
        """The door of this process; another process that gets these settings has one of its own."""
        if self._door is None:
            self._door = Door(self.limits)
        return self._door


def _encrypted(files: CertificateFiles, *_: object) -> ssl.SSLContext:
    return FollowingContext.of(files)


class HttpServer(uvicorn.Server):
    """A server that first says that it will stop, and goes on answering for `drain_s` until it does."""

    def __init__(self, config: HttpConfig, *, handles_signals: bool = True) -> None:
        super().__init__(config)
        self._settings = config
        self._handles_signals = handles_signals

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM or SIGINT: stop; if work is stuck, end the process with a traceback of where."""
        faulthandler.dump_traceback_later(self._settings.stops_within_s, exit=True)
        self._settings.door.is_draining = True  # uvicorn looks only ten times a second whether it is to stop
        super().handle_exit(sig, frame)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at SIGTERM and SIGINT, unless whoever runs this server sees to that; once stopped, ignore them."""
        if not self._handles_signals:
            yield
            return
        _at_signals(self.handle_exit)
        try:
            yield
        finally:
            _at_signals(signal.SIG_IGN)  # uvicorn would raise them again, before the node is closed

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Not ready first; every answer says that the connection closes; then no new ones; then the last answers."""
        self._settings.door.is_draining = True
        for connection in list(self.server_state.connections):
            assert isinstance(connection, Connection)
            connection.start_draining()
        if not self.force_exit:
            await asyncio.sleep(self._settings.limits.drain_s)
        await self._take_those_waiting(sockets or ())
        await super().shutdown(sockets)

    async def _take_those_waiting(self, sockets: Sequence[socket.socket]) -> None:
        """Stop listening; first accept what the kernel has accepted, for closing a socket resets what waits on it."""
        waiting = [found for each in sockets for found in iter(partial(_accepted, each), None)]
        for server in self.servers:
            server.close()
        for each in waiting:
            await asyncio.get_running_loop().connect_accepted_socket(self._connection, each)

    def _connection(self) -> asyncio.Protocol:
        make: Any = self._settings.http_protocol_class
        made: asyncio.Protocol = make(
            config=self._settings, server_state=self.server_state, app_state=self.lifespan.state, _loop=None
        )
        return made


def _accepted(listening: socket.socket) -> socket.socket | None:
    try:
        connection, _ = listening.accept()
    except OSError:
        return None
    connection.setblocking(False)
    return connection


def _at_signals(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)
