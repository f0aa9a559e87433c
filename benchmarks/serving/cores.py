"""Keeps programs to some of the machine's cores, and checks that they keep to them; needs Linux."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from offramp.errors import ConfigError

Cores = frozenset[int]


def one_core() -> Cores:
    """The first core that this process may use."""
    return frozenset({min(os.sched_getaffinity(0))})


def other_cores(cores: Cores) -> Cores:
    """All cores but these, for the clients; the same ones if there are no others."""
    return frozenset(os.sched_getaffinity(0)) - cores or cores


@contextmanager
def pinned(cores: Cores | None) -> Iterator[None]:
    """Keep this thread, and the processes it starts meanwhile, to these cores; None: leave them all."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, before if cores is None else cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def check_pinned(name: str, process: psutil.Process, cores: Cores) -> None:
    """Check every thread of a process and its descendants: a library may choose cores for its threads by itself.

    Raises:
        ConfigError: a thread may run elsewhere, so a limit to these cores would not be one.
    """
    for each in (process, *process.children(recursive=True)):
        for thread in each.threads():
            allowed = os.sched_getaffinity(thread.id)
            if not allowed <= cores:
                raise ConfigError(
                    f"{name} was started on cores {sorted(cores)}, but thread {thread.id} of '{each.name()}' may use "
                    f"{sorted(allowed)}; its figures would not be those of {len(cores)} cores"
                )
