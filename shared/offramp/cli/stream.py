"""`stream`: sends a steady stream of photos to one or more edge nodes, so that there is something to see."""

from __future__ import annotations

import asyncio
import itertools
import random
import ssl
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import httpx
from pydantic import Field

from offramp.cli.photos import photos_in
from offramp.cli.progress import console
from offramp.command import Command
from offramp.errors import ConfigError

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
    api_key: Path | None = Field(
        default=None, description="file with the API key to show to nodes that ask for one"
    )
    ca: Path | None = Field(
        default=None,
        description="authority, in PEM, that signed the certificates of nodes at https:// addresses",
    )
    seed: int = Field(default=0, description="seed for the order of the photos")

    def execute(self) -> None:
        """Send until the time is up, or Ctrl-C."""
        files = [file.read_bytes() for file in photos_in([self.photos])]
        random.Random(self.seed).shuffle(files)
        answers: Counter[str] = Counter()
        with suppress(KeyboardInterrupt):
            asyncio.run(self._send(files, answers))
        _say(answers)

    def _client(self) -> httpx.AsyncClient:
        from offramp.serving.access.certificates import private_file

        headers = {}
        if self.api_key:
            headers["authorization"] = f"Bearer {private_file(self.api_key).decode('latin-1').strip()}"
        try:
            trusted = ssl.create_default_context(cafile=self.ca)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"{self.ca} cannot be read as certificates: {error}; give --ca a PEM file"
            ) from error
        limits = httpx.Limits(max_connections=256)
        return httpx.AsyncClient(
            timeout=_TIMEOUT_S, limits=limits, trust_env=False, verify=trusted, headers=headers
        )

    async def _send(self, files: list[bytes], answers: Counter[str]) -> None:
        async with self._client() as client:
            started = reported = time.monotonic()
            under_way: set[asyncio.Task[None]] = set()
            for number, (address, file) in enumerate(
                zip(itertools.cycle(self.to), itertools.cycle(files), strict=False)
            ):
                due = started + number / self.rate
                if self.seconds is not None and number >= self.rate * self.seconds:
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
