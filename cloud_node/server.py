"""Runs the servicer in a gRPC server: with health checks and reflection, and stops without losing a call."""

from __future__ import annotations

import asyncio
import math
import signal

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH_NAME
from grpc_health.v1.health import aio as health  # type: ignore[attr-defined] # its stubs lack it
from grpc_reflection.v1alpha import reflection

from cloud_node.metrics import MetricsServer
from cloud_node.servicer import TierServicer
from cloud_node.settings import CloudSettings
from offramp.serving.access.access import Access
from offramp.serving.access.calls import CallGate
from offramp.serving.access.keys import Right
from offramp.serving.access.tls import server_credentials
from offramp.serving.listening import cannot_listen, listening_socket
from offramp.serving.node import Node
from offramp.wire.messages import MAX_MESSAGE_BYTES, SERVICE_NAME
from offramp.wire.v1.wire_pb2_grpc import add_TierServiceServicer_to_server

# Health checks and Describe calls that may be open besides the calls that run blocks.
_SPARE_CALLS = 256
_BYTES_BESIDE_A_FEATURE = 256  # of one sample in a call: its id and framing

# What a caller needs for each method; None: nothing. A test sees to it that no method is missing.
RIGHTS: dict[str, Right | None] = {
    f"/{SERVICE_NAME}/Infer": Right.ASK,
    f"/{SERVICE_NAME}/Describe": Right.ASK,
    f"/{HEALTH_NAME}/Check": None,
    f"/{HEALTH_NAME}/List": None,
    f"/{HEALTH_NAME}/Watch": None,
    f"/{reflection.SERVICE_NAME}/ServerReflectionInfo": Right.WATCH,
}

_OPTIONS = (
    # Without this, two nodes could share a port and would answer each other's calls.
    ("grpc.so_reuseport", 0),
    ("grpc.http2.bdp_probe", 0),
)


class CloudServer:
    """One listening gRPC server."""

    def __init__(self, node: Node, settings: CloudSettings) -> None:
        """Bind the port; nothing is answered before `start`.

        Raises:
            ConfigError: the port is taken.
        """
        self._settings = settings
        self._node = node
        self._metrics: MetricsServer | None = None
        self.metrics_port: int | None = None
        limit = ("grpc.max_receive_message_length", _largest_call(node, settings.max_samples))
        self._server = grpc.aio.server(
            interceptors=_gates(node, settings),
            options=(*_OPTIONS, limit),
            maximum_concurrent_rpcs=settings.max_pending + _SPARE_CALLS,
        )
        self._health = health.HealthServicer()
        servicer = TierServicer(node, settings)
        add_TierServiceServicer_to_server(servicer, self._server)  # type: ignore[no-untyped-call] # generated
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (SERVICE_NAME, HEALTH_NAME, reflection.SERVICE_NAME), self._server
        )
        # gRPC does not say why it cannot bind, and logs its own lines about it, so try the port first.
        listening_socket(settings.host, settings.port).close()
        try:
            self.port: int = self._bind(f"{settings.host}:{settings.port}")
        except RuntimeError as error:
            raise cannot_listen(settings.host, settings.port, error) from error

    def _bind(self, address: str) -> int:
        files = self._settings.certificate_files
        if files.given:
            return int(self._server.add_secure_port(address, server_credentials(files)))
        return int(self._server.add_insecure_port(address))

    async def start(self) -> None:
        """Start to answer, and report that to health checks.

        Raises:
            ConfigError: the port for metrics is taken.
        """
        self._serve_metrics()
        await self._server.start()
        for service in ("", SERVICE_NAME):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)

    def _serve_metrics(self) -> None:
        wanted = self._settings.metrics_port
        if wanted is None:
            return
        self._metrics = MetricsServer(self._node, self._settings, wanted)
        self._metrics.start()
        self.metrics_port = self._metrics.port

    async def drain(self) -> None:
        """Stop: report it to health checks first, so that callers go elsewhere, then finish the calls in progress."""
        await self._health.enter_graceful_shutdown()
        await asyncio.sleep(self._settings.drain_s)
        await self._server.stop(self._settings.grace_s)
        if self._metrics:
            await self._metrics.stop()


def _gates(node: Node, settings: CloudSettings) -> list[CallGate]:
    access = Access(settings.access_files)
    if access.is_open and settings.tls_client_ca is None:
        return []
    return [CallGate(access, RIGHTS, names=settings.client_names, refused=node.metrics.refused)]


def _largest_call(node: Node, max_samples: int) -> int:
    tier = node.tier
    values = max(math.prod(block.input.shape) for block in tier.manifest.blocks[tier.start - 1 : tier.stop])
    return min(MAX_MESSAGE_BYTES, max_samples * (4 * values + _BYTES_BESIDE_A_FEATURE))


async def until_told_to_stop() -> None:
    """Wait for SIGTERM or SIGINT."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    await told.wait()
