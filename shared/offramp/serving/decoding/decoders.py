"""Decodes images that are large, or may take long, in processes that are killed when nobody waits for them any more.

A library that decodes images cannot be interrupted, and some files keep it busy for minutes. Small images that are
known to be little work never come here: passing one to a process takes longer than decoding it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offramp.errors import ExpiredError, RequestError, TooLargeError
from offramp.logs import line
from offramp.serving.decoding.forked import BUG, ERRORS, NO_MEMORY, PIXELS
from offramp.serving.decoding.process import Decoder, Nursery
from offramp.serving.decoding.turns import Turns

# Pillow takes at most 13 bytes for a pixel, for a WebP with an orientation; HEIC may take a little more.
BYTES_PER_PIXEL = 16
_BESIDE_PIXELS = 128 << 20
_LONGEST_ERROR = 1 << 16
_LET_END_S = 0.05  # when nobody waits for a decoder any more; replacing it takes some 20 ms

_log = logging.getLogger("offramp.serving")


@dataclass(frozen=True, kw_only=True)
class DecodingLimits:
    """Limits on what is decoded in processes.

    processes: how many there are. timeout_s: longest time for the images of one request. large_pixels, waiting_pixels:
    see `Turns`. max_pixels: of one request; decides how much memory a process may take. settings: the names that
    `timeout_s` and `waiting_pixels` are set by, for errors.
    """

    processes: int = 2
    timeout_s: float = 5.0
    large_pixels: int = 25_000_000
    waiting_pixels: int = 1_000_000_000
    max_pixels: int = 60_000_000
    settings: tuple[str, str] = ("decode_timeout_s", "max_waiting_pixels")


@dataclass(frozen=True, eq=False)
class Decoded:
    """Pixels (B, H, W, C), and the milliseconds spent waiting for a decoder and decoding."""

    pixels: NDArray[np.uint8]
    queue_ms: float
    load_ms: float


class Decoders:
    """Processes that decode, for one event loop; they start when the first image comes."""

    def __init__(self, limits: DecodingLimits) -> None:
        """Prepare; nothing runs yet."""
        self._limits = limits
        self._turns = Turns(
            limits.processes,
            large_pixels=limits.large_pixels,
            max_pixels=limits.waiting_pixels,
            setting=limits.settings[1],
        )
        self._nursery = Nursery(_BESIDE_PIXELS + BYTES_PER_PIXEL * limits.max_pixels)
        self._idle: list[Decoder] = []
        self._busy: set[Decoder] = set()

    async def decode(
        self,
        load: Callable[[], NDArray[np.uint8]],
        *,
        num_pixels: int,
        shape: tuple[int, ...],
        deadline: float = math.inf,
    ) -> Decoded:
        """Decode in a process, when the images' turn has come.

        If the caller is cancelled, the process is killed unless it ends within `_LET_END_S`.

        Args:
            load: what decodes them; it and its result travel between processes.
            num_pixels: of all images, by their headers.
            shape: of the result.
            deadline: when the caller stops waiting, on the clock of `time.monotonic`.

        Raises:
            OverloadError: too many pixels wait already.
            ExpiredError: the deadline passed.
            TooLargeError: decoding takes too long, or too much memory.
            RequestError: what `load` raises, or the images made the decoder crash.
        """
        arrived = time.perf_counter()
        left = None if deadline == math.inf else deadline - time.monotonic()
        try:
            async with asyncio.timeout(left), self._turns.turn(num_pixels):
                begun = time.perf_counter()
                answer = await self._answer(load, math.prod(shape))
        except TimeoutError as error:
            raise ExpiredError(
                "the call's deadline passed before its images were decoded; set a later deadline, or send smaller ones"
            ) from error
        pixels = np.frombuffer(answer, np.uint8, offset=1).reshape(shape)
        return Decoded(pixels, (begun - arrived) * 1000, (time.perf_counter() - begun) * 1000)

    def close(self) -> None:
        """Kill all processes, whatever they do."""
        for decoder in self._busy:
            decoder.kill()
        while self._idle:
            self._idle.pop().close()
        self._nursery.close()

    async def _answer(self, load: Callable[[], NDArray[np.uint8]], num_bytes: int) -> bytearray:
        try:
            return await self._asked(load, num_bytes)
        except EOFError:
            # It may have been ended from outside, such as by a system that was short of memory.
            _log.warning(
                line("decoder_ended", detail="while it decoded a request's images; another one tries again")
            )
        try:
            return await self._asked(load, num_bytes)
        except EOFError as error:
            raise RequestError(
                "image cannot be decoded: two processes ended over it; save it again with a common program"
            ) from error

    async def _asked(self, load: Callable[[], NDArray[np.uint8]], num_bytes: int) -> bytearray:
        decoder = self._idle.pop() if self._idle else await self._nursery.fork()
        self._busy.add(decoder)
        asking = asyncio.ensure_future(decoder.ask(load, most_bytes=max(num_bytes, _LONGEST_ERROR) + 1))
        try:
            await asyncio.wait({asking}, timeout=self._limits.timeout_s)
            if not asking.done():
                raise TooLargeError(
                    f"decoding took longer than {self._limits.timeout_s:g} s ({self._limits.settings[0]}); send "
                    "smaller images, or save them again with a common program"
                )
            answer = asking.result()
        except asyncio.CancelledError:
            # Nobody waits for it any more, but it costs less to let it end than to replace the process.
            await asyncio.wait({asking}, timeout=_LET_END_S)
            raise
        finally:
            self._busy.discard(decoder)
            if _is_well(asking):
                self._idle.append(decoder)
            else:
                decoder.kill()
                asking.cancel()
                asking.add_done_callback(lambda _: decoder.close())  # not while the event loop reads from it
        _check(answer, num_bytes)
        return answer


def _is_well(asking: asyncio.Future[bytearray]) -> bool:
    """Whether a decoder has answered and can be asked again."""
    if not asking.done() or asking.cancelled() or asking.exception() is not None:
        return False
    return asking.result()[:1] != NO_MEMORY


def _check(answer: bytearray, num_bytes: int) -> None:
    """Raise the error that an answer tells, unless it is the pixels."""
    letter = bytes(answer[:1])
    if letter == PIXELS and len(answer) == num_bytes + 1:
        return
    if letter == NO_MEMORY:
        raise TooLargeError(
            "decoding takes more memory than a node gives to the images of a request; send smaller ones"
        )
    text = answer[1:].decode("utf-8", "replace")
    if letter in ERRORS:
        raise ERRORS[letter](text)
    raise RuntimeError(f"a decoder failed: {text if letter == BUG else f'it answered {len(answer)} bytes'}")
