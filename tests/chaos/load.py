"""Somebody who asks about normal photos at a steady rate, in a process of its own so that nothing here delays it."""

from __future__ import annotations

import asyncio
import multiprocessing
import ssl
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from typing import Any, Literal, Self

import httpx
import numpy as np

Kind = Literal["whole", "degraded", "refused", "lost"]
_TIMEOUT_S = 15.0
# One for all clients: making one takes longer than a request.
_TLS = ssl.create_default_context()


@dataclass(frozen=True)
class Seen:
    """One request: when it began (on the clock of `time.monotonic`), how long it took, how it ended."""

    at: float
    ms: float
    kind: Kind
    detail: str = ""


@dataclass(frozen=True)
class Tally:
    """What became of a number of requests; latencies in milliseconds, of answers."""

    sent: int
    whole: int
    degraded: int
    refused: int
    lost: int
    p50_ms: float
    p99_ms: float
    worst_ms: float
    details: str

    @classmethod
    def of(cls, seen: Sequence[Seen]) -> Self:
        """Count requests."""
        kinds = Counter(each.kind for each in seen)
        times = [each.ms for each in seen if each.kind in ("whole", "degraded")] or [float("nan")]
        p50, p99, worst = np.percentile(times, [50, 99, 100])
        details = Counter(each.detail for each in seen if each.detail).most_common(3)
        return cls(
            sent=len(seen),
            whole=kinds["whole"],
            degraded=kinds["degraded"],
            refused=kinds["refused"],
            lost=kinds["lost"],
            p50_ms=float(p50),
            p99_ms=float(p99),
            worst_ms=float(worst),
            details="; ".join(f"{count} × {text}" for text, count in details),
        )


class Load:
    """A steady stream of photos to one edge; every second request opens a connection of its own."""

    def __init__(self, url: str, photos: Sequence[bytes], per_second: float) -> None:
        context = multiprocessing.get_context("spawn")
        self._stop = context.Event()
        self._ready = context.Event()
        self._ours, theirs = context.Pipe(duplex=False)
        self._process = context.Process(
            target=_main, args=(url, photos, per_second, self._ready, self._stop, theirs), daemon=True
        )
        self._process.start()
        theirs.close()
        assert self._ready.wait(60), "the load did not begin"

    def stop(self) -> list[Seen]:
        """Ask no more; everything it saw, in the order it was sent."""
        self._stop.set()
        found: list[Seen] = self._ours.recv()
        self._process.join()
        return sorted(found, key=lambda seen: seen.at)


def _main(url: str, photos: Sequence[bytes], per_second: float, ready: Event, stop: Event, pipe: Any) -> None:
    pipe.send(asyncio.run(_ask_on(url, photos, per_second, ready, stop)))


async def _ask_on(
    url: str, photos: Sequence[bytes], per_second: float, ready: Event, stop: Event
) -> list[Seen]:
    seen: list[Seen] = []
    async with (
        client_of(url, keep=100) as kept,
        client_of(url, keep=0) as fresh,
        asyncio.TaskGroup() as asking,
    ):
        await ask(kept, photos[0])
        await ask(fresh, photos[0])
        ready.set()
        number, begun = 0, time.monotonic()
        while not stop.is_set():
            client = (kept, fresh)[number % 2]
            asking.create_task(_noted(seen, client, photos[number % len(photos)]))
            number += 1
            await asyncio.sleep(max(0.0, begun + number / per_second - time.monotonic()))
    return seen


def client_of(url: str, *, keep: int = 1) -> httpx.AsyncClient:
    """A client of one node that keeps so many connections open between requests."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=keep)
    return httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_S, limits=limits, trust_env=False, verify=_TLS)


async def _noted(seen: list[Seen], client: httpx.AsyncClient, photo: bytes) -> None:
    seen.append(await ask(client, photo))


async def ask(client: httpx.AsyncClient, photo: bytes) -> Seen:
    """Ask once, and say what became of it."""
    at = time.monotonic()
    kind, detail = await _outcome(client, photo)
    return Seen(at, (time.monotonic() - at) * 1000, kind, detail)


async def _outcome(client: httpx.AsyncClient, photo: bytes) -> tuple[Kind, str]:
    try:
        response = await client.post("/v1/predict", content=photo, headers={"content-type": "image/jpeg"})
        if response.status_code != 200:
            return "refused", f"{response.status_code} {response.text[:80]}"
        return ("degraded" if response.json()["degraded"] else "whole"), ""
    except httpx.HTTPError as error:
        return "lost", f"{type(error).__name__} {error}"[:80]
