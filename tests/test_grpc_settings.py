"""What nodes set for gRPC before it is imported, and that this release of it knows the settings."""

from __future__ import annotations

import subprocess
import sys

import pytest

_WATCHED = """
import os, sys


class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "grpc":
            print(*(os.environ.get(f"GRPC_{each}") for each in ("VERBOSITY", "EXPERIMENTS")))


sys.meta_path.insert(0, Watch())
__import__(sys.argv[1])
"""
_CONNECTED = """
import asyncio
import offramp.serving
import grpc


async def connected():
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await channel.channel_ready()
    await server.stop(None)


asyncio.run(connected())
"""


def run(code: str, *given: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *given], check=True, capture_output=True, text=True)


@pytest.mark.parametrize("module", ["edge_node.server", "cloud_node.server", "offramp.serving.running"])
def test_grpc_is_imported_only_after_its_settings_are_made(module: str) -> None:
    assert run(_WATCHED, module).stdout.split() == [
        "NONE",
        "-event_engine_client,-event_engine_listener",
    ]


def test_this_release_of_grpc_knows_the_settings() -> None:
    said = run(_CONNECTED)
    assert said.stderr == "", "gRPC names an experiment that it no longer has"
