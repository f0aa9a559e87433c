"""The cloud node as a Ray Serve application: the same servicer, with replicas and autoscaling by Ray.

Start it with `serve run deploy/ray/offramp.yaml`. Ray's own gRPC proxy listens and picks a replica; a replica treats a
call just as `offramp cloud` does. Needs the extra `ray`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, NoReturn

import grpc
from ray import serve
from ray.serve.grpc_util import RayServegRPCContext

from cloud_node.servicer import TierServicer
from cloud_node.settings import CloudSettings
from offramp.errors import ConfigError
from offramp.logs import start_logging
from offramp.serving.running import block_range, running_node
from offramp.wire.v1 import wire_pb2 as pb

# Ray decides where to listen and how replicas stop. With an upstream, two event loops of one process would use
# grpc.aio, which supports only one.
_NOT_UNDER_RAY = {
    "host": "Ray listens on all interfaces, at grpc_options.port of the Serve config",
    "port": "set grpc_options.port in the Serve config",
    "metrics_port": "Ray exports its own metrics",
    "drain_s": "set graceful_shutdown_wait_loop_s of the deployment",
    "grace_s": "set graceful_shutdown_timeout_s of the deployment",
    "upstream": "a middle tier runs as `offramp cloud`",
    **dict.fromkeys(
        ("keys", "token_keys", "tls_cert", "tls_key", "tls_client_ca", "client_names"),
        "Ray's proxy neither encrypts nor asks who calls; put a proxy that does in front of it",
    ),
}


class Tier:
    """One replica: a node with all its blocks, behind methods that Ray's proxy calls by the name of the RPC."""

    async def __init__(self, arguments: dict[str, Any]) -> None:  # type: ignore[misc] # Ray awaits it
        """Load the bundle; Ray sends calls once this is done."""
        settings = _settings(arguments)
        start_logging(settings.log_level)
        bundle = settings.load_bundle()
        blocks = block_range(settings, bundle.manifest, default=(1, len(bundle.manifest.blocks)))
        self._stack = AsyncExitStack()
        node = await self._stack.enter_async_context(running_node(settings, bundle, blocks))
        self._servicer = TierServicer(node, settings)

    async def Infer(self, request: pb.InferRequest, grpc_context: RayServegRPCContext) -> pb.InferResponse:
        """Answer every sample of a call."""
        return await self._servicer.Infer(request, RayContext(grpc_context))

    async def Describe(
        self, request: pb.DescribeRequest, grpc_context: RayServegRPCContext
    ) -> pb.DescribeResponse:
        """What this replica serves."""
        return await self._servicer.Describe(request, RayContext(grpc_context))

    async def __del__(self) -> None:
        """Close the node; Ray awaits this once no call is left."""
        await self._stack.aclose()


class RayContext:
    """A `Context` on top of Ray's own, which has no abort and no deadline."""

    def __init__(self, context: RayServegRPCContext) -> None:
        self._context = context

    def time_remaining(self) -> None:
        """Unknown: the caller's deadline ends at Ray's proxy."""
        return

    def invocation_metadata(self) -> Sequence[tuple[str, str | bytes]]:
        """The metadata that the caller sent with the message."""
        found: Sequence[tuple[str, str | bytes]] = self._context.invocation_metadata()
        return found

    async def abort(self, code: grpc.StatusCode, details: str = "") -> NoReturn:
        """End the call with a status; Ray passes it on when the method then raises."""
        self._context.set_code(code)
        self._context.set_details(details)
        raise CallRefusedError(details)


class CallRefusedError(Exception):
    """A call that ends with the status set on its context."""


def app(arguments: dict[str, Any]) -> serve.Application:
    """Build the application, as `import_path: cloud_node.ray_app:app` asks for.

    Args:
        arguments: settings of a cloud node by name, such as {"bundle": "/bundle"}; they win over `CLOUD_*`.

    Raises:
        ConfigError: a setting is not valid, or is one that Ray makes itself.
    """
    _settings(arguments)
    return serve.deployment(Tier).bind(arguments)


def _settings(arguments: dict[str, Any]) -> CloudSettings:
    for name, instead in _NOT_UNDER_RAY.items():
        if name in arguments:
            raise ConfigError(f"'{name}' has no effect under Ray Serve; {instead}")
    return CloudSettings.read(given=arguments)
