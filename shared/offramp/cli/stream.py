"""`stream`: sends a steady stream of photos to one or more edge nodes, so that there is something to see."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import httpx
from pydantic import Field

from offramp.cli.photos import photos_in
from offramp.cli.progress import console
from offramp.command import Command

_REPORT_S = 10.0
_TIMEOUT_S = 10.0


class Stream(Command):
    """Send photos at a steady rate, in random order, to the nodes in turn, and report how they were answered.

    Example: offramp stream --to http://127.0.0.1:8000 --photos samples/fashion-mnist --rate 20
    """

    to: list[str] = Field(min_length=1, description="address of an edge node; may be given several times")
    photos: Path = Field(description="folder of photos, with or without sub-folders")
    rate: float = Field(default=10.0, ge=0.1, description="photos per second, over all nodes")
    seconds: float | None = Field(
        default=None, ge=0, description="stop after this many seconds (default: at Ctrl-C)"
    )
    seed: int = Field(default=0, description="seed for the order of the photos")

    def execute(self) -> None:
        """Send until the time is up, or Ctrl-C."""
        files = [file.read_bytes() for file in photos_in([self.photos])]
        random.Random(self.seed).shuffle(files)
        answers: Counter[str] = Counter()
        with suppress(KeyboardInterrupt):
            asyncio.run(_send(self.to, files, self.rate, self.seconds, answers))
        _say(answers)


async def _send(
    to: list[str], files: list[bytes], rate: float, seconds: float | None, answers: Counter[str]
) -> None:
    limits = httpx.Limits(max_connections=256)
    async with httpx.AsyncClient(timeout=_TIMEOUT_S, limits=limits, trust_env=False) as client:
        started = reported = time.monotonic()
        under_way: set[asyncio.Task[None]] = set()
        for number, (address, file) in enumerate(
            zip(itertools.cycle(to), itertools.cycle(files), strict=False)
        ):
            due = started + number / rate
            if seconds is not None and number >= rate * seconds:
                break
            await asyncio.sleep(due - time.monotonic())
            # Send without waiting for the answer: a slow node must not slow the stream down.
            task = asyncio.create_task(_ask(client, f"{address.rstrip('/')}/v1/predict", file, answers))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            if time.monotonic() - reported >= _REPORT_S:
                reported = time.monotonic()
                _say(answers)
        await asyncio.gather(*under_way)


async def _ask(client: httpx.AsyncClient, address: str, file: bytes, answers: Counter[str]) -> None:
    try:
        response = await client.post(address, content=file)
        answer = response.json()
        if response.status_code == 200:
            answers["degraded" if answer["degraded"] else f"at {answer['exit']['name']}"] += 1
        else:
            answers[f"refused: {answer['code']}"] += 1
    except (httpx.HTTPError, ValueError) as error:
        answers[f"failed: {type(error).__name__}"] += 1


def _say(answers: Counter[str]) -> None:
    shown = ", ".join(f"{count} {how}" for how, count in sorted(answers.items()))
    console.print(f"{answers.total()} photos: {shown or 'none yet'}", highlight=False, soft_wrap=True)
