"""Decodes images for a node in processes that it may kill; `python -m offramp.serving.child` runs this module.

This process is a node's child. For each socket that it gets over its standard input it forks a decoder, so that one
that was killed is replaced in milliseconds. Nothing but pixels and errors comes back from a decoder: a damaged image
that took one over could not run code in the node.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import resource
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from numpy.typing import NDArray

from offramp.engine.images import OpenedImages  # noqa: F401 - loaded once, before the first fork
from offramp.errors import RequestError, TooLargeError, UnsupportedMediaError
from offramp.serving.child import end_with_parent

LENGTH = struct.Struct(">Q")
PIXELS, NO_MEMORY, BUG = b"P", b"M", b"B"
ERRORS: dict[bytes, type[RequestError]] = {
    b"R": RequestError,
    b"L": TooLargeError,
    b"U": UnsupportedMediaError,
}
_KINDS = {kind: letter for letter, kind in ERRORS.items()}
_NICE = 5  # decoding gives way to the node's loop and its blocks


def main() -> None:
    """Fork a decoder for each socket until the node is gone; the argument is how many bytes each may take."""
    most_bytes = int(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system buries the decoders
    with socket.socket(fileno=sys.stdin.fileno()) as node:
        while True:
            _, found, _, _ = socket.recv_fds(node, 1, 1)
            if not found:
                return
            parent = os.getpid()
            if os.fork() == 0:
                end_with_parent(parent)
                node.close()
                _limit_memory(most_bytes)
                os.nice(_NICE)
                with socket.socket(fileno=found[0]) as asked, contextlib.suppress(ConnectionError):
                    _decode_for(asked)  # until the node wants no more of it
                os._exit(0)
            os.close(found[0])


def _decode_for(node: socket.socket) -> None:
    node.sendall(LENGTH.pack(os.getpid()))
    while found := socket.recv_fds(node, 1, 1)[1]:
        with os.fdopen(found[0], "rb") as question:
            question.seek(0)
            answer = answer_to(question)
        node.sendall(LENGTH.pack(len(answer)))
        node.sendall(answer)


def answer_to(question: BinaryIO) -> bytes:
    """Decode what a node asks for: one letter, then pixels or the text of an error."""
    try:
        load: Callable[[], NDArray[Any]] = pickle.load(question)  # which the node itself wrote
        return PIXELS + load().tobytes()
    except RequestError as error:
        return _KINDS[type(error)] + str(error).encode()
    except MemoryError:
        return NO_MEMORY
    except Exception:  # noqa: BLE001 - the node logs it and answers for it
        return BUG + traceback.format_exc().encode("utf-8", "backslashreplace")


def _limit_memory(most_bytes: int) -> None:
    """Let this process take so many bytes more than it has, so that an image that needs more ends only itself."""
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5])  # data and stack
        limit = pages * resource.getpagesize() + most_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        # If memory runs out nevertheless, such as in a small container, the system ends this process and not the node.
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


if __name__ == "__main__":
    main()
