"""Runs the servicer in a gRPC server: with health checks and reflection, and stops without losing a call."""

from __future__ import annotations

import asyncio
import math
import signal
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH_NAME
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from cloud_node.door import Door
from cloud_node.health import Health
from cloud_node.metrics import MetricsServer
from cloud_node.room import Limits
from cloud_node.servicer import TierServicer
from cloud_node.settings import CloudSettings
from offramp.serving.access.access import Access
from offramp.serving.access.calls import CallGate
from offramp.serving.access.keys import Right
from offramp.serving.access.tls import server_credentials
from offramp.serving.http.limits import open_files
from offramp.serving.listening import cannot_listen, in_address, listening_socket
from offramp.serving.node import Node
from offramp.wire.messages import SERVER_KEEPALIVE_OPTIONS, SERVICE_NAME
from offramp.wire.v1.wire_pb2_grpc import add_TierServiceServicer_to_server

_BYTES_BESIDE_A_FEATURE = 256  # of one sample in a call: its id and framing
_BYTES_BESIDE_A_CALL = 4096  # bundle, thetas
_LEAST_ARRIVING = 1024
_WATCH_EVERY_S = 0.5

# What a caller needs for each method; None: nothing. A test sees to it that no method is missing.
RIGHTS: dict[str, Right | None] = {
    f"/{SERVICE_NAME}/Infer": Right.ASK,
    f"/{SERVICE_NAME}/InferStream": Right.ASK,
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
    *SERVER_KEEPALIVE_OPTIONS,
    ("grpc.max_concurrent_streams", 1024),  # on one connection; Envoy opens another one for more
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_connection_idle_ms", 300_000),
    # Behind a name with several addresses, callers find new replicas when they have to connect again.
    ("grpc.max_connection_age_ms", 1_800_000),
    ("grpc.max_connection_age_grace_ms", 60_000),
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
        open_files()  # every caller takes one
        largest = largest_message(node, settings)
        self._server = grpc.aio.server(
            interceptors=_gates(node, settings),
            options=(
                *_OPTIONS,
                ("grpc.max_receive_message_length", largest),
                # Calls that nothing has looked at yet; gRPC resets some of more than 1,000, and all above 3,000.
                ("grpc.server.max_pending_requests", settings.max_streams),
                ("grpc.server.max_pending_requests_hard_limit", settings.max_streams),
            ),
        )
        self._health = Health(("", SERVICE_NAME))
        self._add_services(TierServicer(node, settings, max_bytes=largest, streams=True), largest)
        # gRPC does not say why it cannot bind, and logs its own lines about it, so try the port first.
        listening_socket(settings.host, settings.port).close()
        try:
            self.port: int = self._bind(in_address(settings.host, settings.port))
        except RuntimeError as error:
            raise cannot_listen(settings.host, settings.port, error) from error

    def _add_services(self, tier: TierServicer, largest: int) -> None:
        settings = self._settings
        limits = Limits(
            message_bytes=largest,
            buffered_bytes=max(settings.max_buffered_bytes, largest),
            arriving=max(_LEAST_ARRIVING, 4 * settings.max_pending),
            streams=settings.max_streams,
            arrival_s=settings.message_timeout_s,
        )
        self._door = Door(limits, refused=self._node.metrics.refused)
        door: Any = self._door
        add_TierServiceServicer_to_server(tier, door)  # type: ignore[no-untyped-call] # generated
        health_pb2_grpc.add_HealthServicer_to_server(self._health, door)
        shown = reflection.aio.ReflectionServicer(  # type: ignore[attr-defined] # its stubs lack it
            (SERVICE_NAME, HEALTH_NAME, reflection.SERVICE_NAME)
        )
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(shown, door)
        for service, handlers in door.handlers.items():
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))

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
        self._watching = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            self._health.tell(is_serving=self._node.trouble is None)
            await asyncio.sleep(_WATCH_EVERY_S)

    def _serve_metrics(self) -> None:
        wanted = self._settings.metrics_port
        if wanted is None:
            return
        self._metrics = MetricsServer(self._node, self._settings, wanted)
        self._metrics.start()
        self.metrics_port = self._metrics.port

    async def drain(self) -> None:
        """Stop: report it to health checks first, so that callers go elsewhere, then finish the calls in progress."""
        self._watching.cancel()
        self._health.tell(is_serving=False)
        self._door.close()
        await asyncio.sleep(self._settings.drain_s)
        self._health.close()
        await self._server.stop(self._settings.grace_s)
        if self._metrics:
            await self._metrics.stop()


def _gates(node: Node, settings: CloudSettings) -> list[CallGate]:
    access = Access(settings.access_files)
    if access.is_open and settings.tls_client_ca is None:
        return []
    return [CallGate(access, RIGHTS, names=settings.client_names, refused=node.metrics.refused)]


def largest_message(node: Node, settings: CloudSettings) -> int:
    """Most bytes of a call: as many as its samples can need, within the setting, but at least one sample."""
    tier = node.tier
    values = max(math.prod(block.input.shape) for block in tier.manifest.blocks[tier.start - 1 : tier.stop])
    one = 4 * values + _BYTES_BESIDE_A_FEATURE
    return min(settings.max_samples * one, max(settings.max_message_bytes, one + _BYTES_BESIDE_A_CALL))


def told_to_stop() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set from now on, instead of ending the process."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    return told
