"""Threads that run blocks. Unlike those of the standard library, one that is stuck does not keep the process alive.

The event loop is told of a result directly: two futures of the standard library, one for threads and one for the loop,
would take interpreter time that answers wait for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

T = TypeVar("T")
_Work = tuple[Callable[[], Any], Callable[[Any], None], asyncio.AbstractEventLoop]


class Workers:
    """A number of threads, which start with the first work."""

    def __init__(self, count: int) -> None:
        """Nothing runs yet."""
        self._count = count
        self._threads: list[Thread] = []
        self._work: SimpleQueue[_Work | None] = SimpleQueue()

    def submit(self, call: Callable[[], T], then: Callable[[T], None]) -> None:
        """Have a thread make a call, which must not raise anything, and this event loop `then` one with its result."""
        if len(self._threads) < self._count:
            self._threads.append(Thread(target=self._run, name=f"blocks-{len(self._threads)}", daemon=True))
            self._threads[-1].start()
        self._work.put((call, then, asyncio.get_running_loop()))

    def stop(self, *, within_s: float) -> bool:
        """Let the threads finish the work they were given, and wait for that; False if one has not within that time."""
        for _ in self._threads:
            self._work.put(None)
        until = time.monotonic() + within_s
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self) -> None:
        while work := self._work.get():
            call, then, loop = work
            found = call()
            with suppress(RuntimeError):  # the loop has ended; nobody waits any more
                loop.call_soon_threadsafe(then, found)
            del work, call, then, found  # while the thread waits, it must not hold the last batch
