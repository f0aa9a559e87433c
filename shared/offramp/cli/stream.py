"""`stream`: a steady stream of photos to one or more edge nodes, so that there is something to see."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import httpx
import typer

from offramp.cli.errors import told_in_one_line
from offramp.cli.progress import console
from offramp.errors import DataError

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
_REPORT_S = 10.0
_TIMEOUT_S = 10.0


@told_in_one_line
def stream(
    to: Annotated[list[str], typer.Option(help="Address of an edge node; may be given several times.")],
    photos: Annotated[Path, typer.Option(help="Folder of photos, with or without sub-folders.")],
    rate: Annotated[float, typer.Option(min=0.1, help="Photos per second, over all nodes.")] = 10.0,
    seconds: Annotated[
        float | None, typer.Option(min=0, help="Stop after so long; Ctrl-C otherwise.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the order of the photos.")] = 0,
) -> None:
    """Send photos at a steady rate, in random order, to the nodes in turn, and say how they were answered.

    Example: offramp stream --to http://127.0.0.1:8000 --photos samples/fashion-mnist --rate 20
    """
    files = [file.read_bytes() for file in sorted(photos.rglob("*")) if file.suffix.lower() in _SUFFIXES]
    if not files:
        raise DataError(f"{photos} has no photos; give a folder of JPEG, PNG or WebP files")
    random.Random(seed).shuffle(files)
    answers: Counter[str] = Counter()
    with suppress(KeyboardInterrupt):
        asyncio.run(_send(to, files, rate, seconds, answers))
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
            # At its own pace, whatever the answers take: a slow node must not slow the stream down.
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
