"""Threads that run blocks. Unlike those of the standard library, one that is stuck does not keep the process alive."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import SimpleQueue
from threading import Thread
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Workers(Executor):
    """A number of threads, which start with the first work."""

    def __init__(self, count: int) -> None:
        """Nothing runs yet."""
        self._count = count
        self._threads: list[Thread] = []
        self._work: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have a thread call `fn`."""
        if len(self._threads) < self._count:
            self._threads.append(Thread(target=self._run, name=f"blocks-{len(self._threads)}", daemon=True))
            self._threads[-1].start()
        future: Future[T] = Future()
        self._work.put((future, lambda: fn(*args, **kwargs)))
        return future

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
            future, call = work
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except BaseException as error:  # noqa: BLE001 - it is raised where the result is awaited
                future.set_exception(error)
            del work, future, call  # while the thread waits, it must not hold the last batch
