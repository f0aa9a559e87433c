"""What is fuzzed. Each module here has `MAX_BYTES`, `seeds()` and `ready()`.

`ready` is an asynchronous context manager; what it yields is called with the bytes of one input, and raises whatever
nobody should see. An error that the caller is meant to get is no finding. A new target is one module, and its name
here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from typing import Protocol, cast

TARGETS = ("images", "bodies", "heads", "manifests", "features", "requests", "replies")

Try = Callable[[bytes], Awaitable[None]]


class Target(Protocol):
    """What a module of this package has."""

    MAX_BYTES: int

    def seeds(self) -> Iterator[bytes]:
        """Inputs to begin with."""

    def ready(self) -> AbstractAsyncContextManager[Try]:
        """Set everything up once."""


def target_named(name: str) -> Target:
    """Load one of the targets."""
    return cast("Target", import_module(f"{__name__}.{name}"))
