"""A stream of photos to several nodes."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import numpy as np

from offramp.bundle import Bundle
from tests.commands import Result, offramp
from tests.nodes import closed_port_address, png, running_edge


async def streamed(*arguments: str) -> Result:
    return await asyncio.to_thread(offramp, "stream", *arguments)


def photos_in(directory: Path) -> Path:
    generator = np.random.default_rng(0)
    for label in ("ant", "bee"):
        (directory / label).mkdir(parents=True)
        for number in range(3):
            pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            (directory / label / f"{number}.png").write_bytes(png(pixels))
    return directory


async def test_photos_go_to_the_nodes_in_turn_at_the_rate_asked_for(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    photos = str(photos_in(tmp_path / "photos"))
    async with running_edge(tiny_bundle, blocks="1-3") as one, running_edge(tiny_bundle, blocks="1-3") as two:
        started = time.monotonic()
        to = ["--to", str(one.base_url), "--to", str(two.base_url), "--photos", photos]
        result = await streamed(*to, "--rate", "40", "--seconds", "0.5")
        took_s = time.monotonic() - started
        received = [(await client.get("/metrics")).text for client in (one, two)]
    assert result.exit_code == 0, result.output
    assert "20 photos: " in result.stderr and "at exit-1" in result.stderr
    assert took_s >= 19 / 40
    for text in received:
        assert (
            sum(
                float(line.split()[-1])
                for line in text.splitlines()
                if line.startswith("offramp_samples_total{")
            )
            == 10
        )


async def test_a_node_that_is_gone_is_counted_and_does_not_stop_the_stream(tmp_path: Path) -> None:
    photos = str(photos_in(tmp_path / "photos"))
    to = f"http://{closed_port_address()}"
    result = await streamed("--to", to, "--photos", photos, "--rate", "50", "--seconds", "0.1")
    assert result.exit_code == 0 and "5 photos: 5 failed: ConnectError" in result.stderr


async def test_a_folder_without_photos_is_refused(tmp_path: Path) -> None:
    result = await streamed("--to", "http://127.0.0.1:1", "--photos", str(tmp_path))
    assert result.exit_code == 2 and "has no photos" in result.stderr
