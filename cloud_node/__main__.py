"""`offramp cloud`, or `python -m cloud_node`: reads settings, builds the parts, runs them."""

from __future__ import annotations

import asyncio
import logging
import os
import sys

import uvloop

from cloud_node.settings import CloudSettings
from offramp.command import run_command
from offramp.logs import line, start_logging
from offramp.serving.access.settings import warn_if_open
from offramp.serving.ending import end_when_told
from offramp.serving.listening import in_address
from offramp.serving.native_output import log_native_output


class Cloud(CloudSettings):
    """Serve the deeper blocks of a bundle over gRPC.

    By default it runs all blocks; a node that runs block 1 also takes images. With an upstream it is a middle tier.
    Every option can also be an environment variable (CLOUD_PORT=50051) or a key in the --config file (port = 50051).

    Example: offramp cloud models/b-lenet-fashion --port 50051
    """

    def execute(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        end_when_told()
        start_logging(self.log_level)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(self))


async def _serve(settings: CloudSettings) -> None:
    bundle = settings.load_bundle()
    # Only gRPC knows of handshakes that fail, and says so at this level, which it reads when it is imported.
    os.environ["GRPC_VERBOSITY"] = "INFO"
    log_native_output()
    start_logging(settings.log_level)

    from cloud_node.server import CloudServer, told_to_stop
    from offramp.serving.running import block_range, running_node, spare_collections

    manifest = bundle.manifest
    # By default all blocks, so that edges can split anywhere, and can send images that are smaller than their features.
    blocks = block_range(settings, manifest, default=(1, len(manifest.blocks)))
    async with running_node(settings, bundle, blocks) as node:
        server = CloudServer(node, settings)
        told = told_to_stop()
        await server.start()
        log = logging.getLogger("cloud_node")
        warn_if_open(settings, settings.host)
        log.info(
            line(
                "ready",
                tier=settings.tier,
                address=in_address(settings.host, server.port),
                blocks=f"{blocks[0]}-{blocks[1]}",
                runtime=settings.runtime,
                bundle=manifest.bundle_id,
            )
        )
        spare_collections()
        await told.wait()
        log.info(line("draining", tier=settings.tier))
        await server.drain()


if __name__ == "__main__":
    run_command(Cloud, sys.argv[1:], program="python -m cloud_node")
