"""A node inside the fuzzer's process, and what is wrong with anything it logs or answers."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from offramp.bundle import Bundle, load_bundle
from offramp.serving.node import Node
from offramp.serving.running import running_node
from offramp.serving.settings import NodeSettings

BUNDLE = Path(__file__).parents[3] / "models" / "b-lenet-fashion"


class FoundError(AssertionError):
    """Something that nobody should see."""


@asynccontextmanager
async def node_for(settings: NodeSettings) -> AsyncIterator[Node]:
    """A node with all blocks of a small bundle."""
    bundle: Bundle = load_bundle(settings.bundle)
    async with running_node(settings, bundle, (1, len(bundle.manifest.blocks))) as node:
        yield node


class Tracebacks(logging.Handler):
    """Keeps the last error that came with a traceback: a fault without a name."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self._error: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        if record.exc_info:
            self._error = record.exc_info[1]

    def check(self) -> None:
        """Raise what was logged since the last check."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error


@contextmanager
def tracebacks() -> Iterator[Tracebacks]:
    """Watch the log of everything, and write none of it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    watching = Tracebacks()
    root.handlers[:] = [watching]
    root.setLevel(logging.ERROR)
    try:
        yield watching
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
