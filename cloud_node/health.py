"""The standard gRPC health service: whether this node can work, for callers, proxies and orchestrators.

The one that comes with grpcio writes to a watcher while it holds a lock, so that one watcher that does not read keeps
the news from all others, and a node from stopping.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_Status = health_pb2.HealthCheckResponse


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc] # untyped
    """Tells of every service whether it is SERVING; until the first `tell`, none is."""

    def __init__(self, services: tuple[str, ...]) -> None:
        """Know these services; "" stands for the server as a whole."""
        self._services = services
        self._is_serving = False
        self._is_closed = False
        self._changed = asyncio.Event()

    def tell(self, *, is_serving: bool) -> None:
        """Say from now on that all services are SERVING, or that none is."""
        if is_serving != self._is_serving:
            self._is_serving = is_serving
            self._tell()

    def close(self) -> None:
        """End all watches, which would keep a server from stopping."""
        self._is_closed = True
        self._tell()

    def _tell(self) -> None:
        told, self._changed = self._changed, asyncio.Event()
        told.set()

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> health_pb2.HealthCheckResponse:
        """How one service is."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such service here")
        return _Status(status=self._status(request.service))

    async def List(
        self, request: health_pb2.HealthListRequest, context: Any
    ) -> health_pb2.HealthListResponse:
        """How every service is."""
        statuses = {name: _Status(status=self._status(name)) for name in self._services}
        return health_pb2.HealthListResponse(statuses=statuses)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """How one service is, now and after each change, until `close`."""
        told = None
        while not self._is_closed:
            changed, status = self._changed, self._status(request.service)
            if status != told:
                yield _Status(status=status)
                told = status
            await changed.wait()

    def _status(self, service: str) -> Any:
        if service not in self._services:
            return _Status.SERVICE_UNKNOWN
        return _Status.SERVING if self._is_serving else _Status.NOT_SERVING
