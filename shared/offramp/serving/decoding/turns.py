"""Who is decoded next: large images wait for each other, small ones pass them, and the sum of their pixels is bounded.

An image's place in the queue is the time of its arrival, and later the more pixels it has. So a photo passes images
that are far larger, but only those that came shortly before it: everyone's turn comes.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count

from offramp.errors import OverloadError

# Images of fewer pixels count as small: they take about 50 ms and 25 MB at most.
SMALL_PIXELS = 2_000_000
# How much later a pixel makes the place in the queue, in seconds: some ten times as long as decoding it takes.
_LATER_S = 1.5e-7
# What large images leave free for small ones, of all pixels that may wait.
_LEFT_FREE = 0.25


@dataclass(order=True, slots=True)
class _Waiting:
    place: float
    number: int
    pixels: int = field(compare=False)
    turn: asyncio.Future[None] = field(compare=False)


class Turns:
    """Admits images to a number of decoders."""

    def __init__(self, slots: int, *, large_pixels: int, max_pixels: int, setting: str) -> None:
        """Nothing waits yet.

        Args:
            slots: how many are decoded at the same time; if there are several, one is kept for small images.
            large_pixels: most pixels of large images that are decoded at the same time; one alone may have more.
            max_pixels: most pixels of all images that wait or are decoded.
            setting: what `max_pixels` is set by, for the error.
        """
        self._free = slots
        self._free_for_large = max(1, slots - 1)
        self._left_for_large = large_pixels
        self._large_pixels = large_pixels
        self._max_pixels = max_pixels
        self._setting = setting
        self._pixels = 0
        self._small: list[_Waiting] = []
        self._large: list[_Waiting] = []
        self._numbers = count()

    @asynccontextmanager
    async def turn(self, pixels: int) -> AsyncIterator[None]:
        """Wait until images with so many pixels in total may be decoded, and hold a decoder's place meanwhile.

        Raises:
            OverloadError: too many pixels wait already.
        """
        self._check_room(pixels)
        self._pixels += pixels
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue = self._small if pixels < SMALL_PIXELS else self._large
        place = time.monotonic() + _LATER_S * pixels
        heapq.heappush(queue, _Waiting(place, next(self._numbers), pixels, turn))
        self._admit()
        try:
            await turn
            yield
        finally:
            self._pixels -= pixels
            if turn.done() and not turn.cancelled():
                self._count(pixels, -1)
            turn.cancel()
            self._admit()

    def _check_room(self, pixels: int) -> None:
        is_small = pixels < SMALL_PIXELS
        most = self._max_pixels if is_small else int((1 - _LEFT_FREE) * self._max_pixels)
        if self._pixels and self._pixels + pixels > most:
            whose = self._setting if is_small else f"three quarters of {self._setting}, for large images"
            raise OverloadError(
                f"images of {self._pixels} pixels wait to be decoded, and {pixels} more are over the limit of {most} "
                f"({whose}); try again later, or send smaller images"
            )

    def _admit(self) -> None:
        while self._free and (queue := self._next()):
            waiting = heapq.heappop(queue)
            self._count(waiting.pixels, 1)
            waiting.turn.set_result(None)

    def _next(self) -> list[_Waiting] | None:
        """The queue whose first image may be decoded now, and has waited longest."""
        for queue in (self._small, self._large):
            while queue and queue[0].turn.done():  # cancelled: nobody waits for it
                heapq.heappop(queue)
        queues = [self._small] if self._small else []
        if self._large and self._free_for_large:
            is_alone = self._left_for_large == self._large_pixels
            if is_alone or self._large[0].pixels <= self._left_for_large:
                queues.append(self._large)
        return min(queues, key=lambda queue: queue[0], default=None)

    def _count(self, pixels: int, change: int) -> None:
        self._free -= change
        if pixels >= SMALL_PIXELS:
            self._free_for_large -= change
            self._left_for_large -= change * pixels
