"""How cost grows: with clients, with edges on one cloud, with the size of photos, and with the number of exits.

    python -m benchmarks.growth models/b-alexnet-cifar10-int8 --large models/b-lite0-grocery-int8 --photos PHOTOS

It needs the extra train, wrk (`apt-get install wrk`), some 100 MB for each edge, and an otherwise idle machine.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import psutil
from PIL import Image
from pydantic import Field
from rich.console import Console

from benchmarks.gallery.page import Sheet
from benchmarks.growth.many_edges import ask_edges
from benchmarks.serving.cores import one_core, pinned
from benchmarks.serving.load import turn, write_script
from benchmarks.serving.page import machine
from benchmarks.serving.servers import Tree
from offramp.authoring.backbones.attach import attach_exits
from offramp.authoring.export.bundling import export_bundle
from offramp.authoring.networks.efficientnet_lite import PREPROCESSING, efficientnet_lite0
from offramp.bundle import Bundle
from offramp.cli.options import BundleArgument
from offramp.cli.processes import node_process
from offramp.cli.progress import progress
from offramp.command import Command, run_command
from offramp.engine.runtime import load_blocks
from offramp.engine.tier import Tier

_CLASSES = 10
_TIMED = 60
Advance = Callable[[int], None]


class Growth(Command):
    """Measure cost against clients, edges, pixels and exits.

    Example: python -m benchmarks.growth models/b-alexnet-cifar10-int8 --large models/b-lite0-grocery-int8 --photos DIR
    """

    bundle: BundleArgument
    large: Path = Field(description="directory of a bundle that takes photos of 224 pixels or more")
    photos: Path = Field(description="folder of small photos")
    clients: list[int] = Field(default=[1, 10, 100, 1000], description="connections of wrk")
    edges: list[int] = Field(default=[1, 4, 16, 64], description="edge nodes on one cloud node")
    sides: list[int] = Field(default=[32, 128, 512, 1024, 2048, 4000], description="pixels of a photo's side")
    exits: list[int] = Field(default=[2, 3, 5, 8], description="exits of a network, the last one included")
    per_second: float = Field(default=80, gt=0, description="requests to all edges together")
    seconds: int = Field(default=5, ge=1, description="length of each turn")
    page: Path | None = Field(default=None, description="also write this Markdown file")

    def execute(self) -> None:
        """Measure one kind of growth after the other, and print the page."""
        parts = (self._clients, self._edges, self._sides, self._exits)
        steps = sum(map(len, (self.clients, self.edges, self.sides, self.exits)))
        with progress("turns", steps) as advance:
            sheets = [part(advance) for part in parts]
        told = "\n".join(sheet.as_markdown() for sheet in sheets)
        text = f"# Growth\n\nMade by `python -m benchmarks.growth`.\n\n{machine()}\n\n{told}"
        Console().print(text, highlight=False, markup=False, soft_wrap=True)
        if self.page:
            self.page.write_text(text, encoding="utf-8")

    def _clients(self, advance: Advance) -> Sheet:
        rows = []
        with _edge(self.bundle, "--max-pending", str(2 * max(self.clients))) as (url, tree):
            for clients in self.clients:
                rows.append((f"{clients:,}", *_asked(url, tree, self.photos, clients, self.seconds)))
                advance(1)
        columns = ("clients", *_ASKED)
        return Sheet(f"Clients of one edge node, {self.bundle.name}", columns, rows)

    def _edges(self, advance: Advance) -> Sheet:
        photos = [path.read_bytes() for path in sorted(self.photos.rglob("*.*"))[:500] if path.is_file()]
        rows = []
        for edges in self.edges:
            found = ask_edges(
                self.bundle, photos, edges=edges, per_second=self.per_second, seconds=2 * self.seconds
            )
            rows.append(
                (
                    f"{edges}",
                    f"{found.requests} ({found.degraded} degraded)",
                    f"{found.p50_ms:.1f} / {found.p99_ms:.1f}",
                    f"{found.edges_us:.0f}",
                    f"{found.cloud_us:.0f}",
                    f"{found.samples_a_call:.2f}",
                    f"{found.cloud_bytes / 1e6:.0f}",
                )
            )
            advance(1)
        columns = (
            "edges",
            "requests",
            "p50 / p99 ms",
            "CPU µs per request, edges",
            "cloud",
            "samples a call",
            "cloud, MB",
        )
        title = f"Edge nodes on one cloud node, {self.per_second:g} requests a second together, all offloaded"
        return Sheet(title, columns, rows)

    def _sides(self, advance: Advance) -> Sheet:
        rows = []
        with _edge(self.large) as (url, tree), TemporaryDirectory() as scratch:
            for side in self.sides:
                folder = Path(scratch) / str(side)
                folder.mkdir()
                data = _photo(side)
                (folder / "photo.jpg").write_bytes(data)
                asked = _asked(url, tree, folder, 4, self.seconds)
                rows.append((f"{side:,}", f"{len(data) / 1e3:,.0f}", *asked))
                advance(1)
        columns = ("pixels of a side", "kB", *_ASKED)
        return Sheet(f"Sizes of photos, 4 clients of one edge node, {self.large.name}", columns, rows)

    def _exits(self, advance: Advance) -> Sheet:
        rows = []
        with TemporaryDirectory() as scratch:
            for count in self.exits:
                bundle = _with_exits(count, Path(scratch) / str(count))
                macs = [each.macs for each in bundle.manifest.exits[:-1]]
                share = sum(macs) / bundle.manifest.backbone_macs
                first, all_ms = _milliseconds(bundle, 0.0), _milliseconds(bundle, 1.0)
                rows.append((f"{count}", f"{share:.1%}", f"{first:.2f}", f"{all_ms:.2f}"))
                advance(1)
        columns = (
            "exits",
            "MACs of the early ones, of the backbone's",
            "ms, leaves at the first",
            "leaves at the last",
        )
        return Sheet(
            "Exits of an untrained EfficientNet-Lite0 in float32, evenly placed, one thread", columns, rows
        )


_ASKED = ("requests a second", "p50 / p99 ms", "CPU µs per request", "MB")


def _asked(url: str, tree: Tree, photos: Path, clients: int, seconds: int) -> tuple[str, ...]:
    with TemporaryDirectory() as scratch:
        script = Path(scratch) / "photos.lua"
        write_script(script, photos)
        turn(url, script, clients=clients, seconds=1)
        before_s = tree.cpu_s()
        done = turn(url, script, clients=clients, seconds=seconds)
    used_us = 1e6 * (tree.cpu_s() - before_s) / done.requests
    return (
        f"{done.per_second:,.0f}",
        f"{done.p50_ms:.1f} / {done.p99_ms:.1f}",
        f"{used_us:,.0f}",
        f"{tree.memory_bytes() / 1e6:.0f}",
    )


@contextmanager
def _edge(bundle: Path, *more: str) -> Iterator[tuple[str, Tree]]:
    """An edge node alone, with all blocks: where it takes photos, and its processes."""
    with node_process("edge_node", [str(bundle), "--port", "0", *more], name="edge") as node:
        yield f"http://{node.address}/v1/predict", Tree(psutil.Process(node.pid))


def _photo(side: int) -> bytes:
    """A JPEG with slopes and some noise, as cameras make them."""
    noise = np.random.default_rng(0).normal(0, 6, (side, side, 3))
    slope = np.add.outer(np.linspace(0, 120, side), np.linspace(0, 100, side))[..., np.newaxis]
    file = io.BytesIO()
    Image.fromarray((slope + noise).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
    return file.getvalue()


def _with_exits(count: int, directory: Path) -> Bundle:
    shares = [number / count for number in range(1, count)]
    network = attach_exits(efficientnet_lite0(_CLASSES), image_shape=(3, 224, 224), exits=shares)
    labels = [str(number) for number in range(_CLASSES)]
    return export_bundle(
        network, directory, name=f"exits-{count}", labels=labels, preprocessing=PREPROCESSING, split_point=2
    )


def _milliseconds(bundle: Bundle, theta: float) -> float:
    """Median time of a sample with this θ at every exit."""
    manifest = bundle.manifest
    tier = Tier(manifest, load_blocks(bundle, 1, len(manifest.blocks)), start=1)
    pixels = np.zeros((1, *manifest.preprocessing.pixel_shape), np.uint8)
    times = []
    with pinned(one_core()):
        for _ in range(_TIMED):
            begun = time.perf_counter()
            tier.run(pixels, [theta] * (manifest.num_exits - 1))
            times.append(time.perf_counter() - begun)
    return 1000 * median(times)


if __name__ == "__main__":
    run_command(Growth, sys.argv[1:], program="python -m benchmarks.growth")
