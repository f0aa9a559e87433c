"""`bundle.json` of a stranger's bundle."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.fuzz.targets import Try
from benchmarks.fuzz.targets.nodes import BUNDLE
from offramp.bundle import load_bundle
from offramp.errors import BundleError

MAX_BYTES = 16_384
_SEEDS = ("b-lenet-fashion", "b-lenet-mnist-narrow", "b-alexnet-cifar10")


def seeds() -> Iterator[bytes]:
    """The manifests that ship, as far as they are short."""
    for name in _SEEDS:
        manifest = load_bundle(BUNDLE.parent / name).manifest
        yield (
            manifest.model_copy(update={"operating_points": manifest.operating_points[:1]})
            .model_dump_json()
            .encode()
        )


@asynccontextmanager
async def ready() -> AsyncIterator[Try]:
    """A bundle with nothing but a manifest: the rest of it is refused, if it comes to that."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bundle.json"

        async def once(data: bytes) -> None:
            file.write_bytes(data)
            try:
                load_bundle(file.parent)
            except BundleError:
                return

        yield once
