"""The node's end of the processes that decode: starts them, asks them, kills them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import BinaryIO, cast

from offramp.serving.decoding.forked import LENGTH

_ENVIRONMENT = {
    # It forks, so it must not have threads.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    # Gives memory back as soon as it is free.
    "MALLOC_MMAP_THRESHOLD_": str(1 << 20),
}


class Decoder:
    """One process that decodes; it serves one caller at a time."""

    def __init__(self, asked: socket.socket, pid: int) -> None:
        """Use a process that waits at the other end of a socket."""
        self._asked = asked
        self._pid: int | None = pid

    async def ask(self, load: Callable[[], object], *, most_bytes: int) -> bytearray:
        """Have the process call `load`, and wait for its answer. After any error, the process is of no more use.

        Raises:
            EOFError: the process ended, or its answer has more bytes than it may have.
        """
        try:
            with _file_in_memory() as question:
                pickle.dump(load, question)
                question.flush()
                # The process is idle, so there is room for a byte.
                socket.send_fds(self._asked, [b"?"], [question.fileno()])
            (length,) = LENGTH.unpack(await _received(self._asked, LENGTH.size))
        except (OSError, EOFError) as error:
            self._pid = None  # another process may get the number
            raise EOFError(str(error)) from error
        if not 1 <= length <= most_bytes:
            raise EOFError(f"an answer of {length} bytes")
        return await _received(self._asked, length)

    def kill(self) -> None:
        """End the process, whatever it does."""
        if self._pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            self._pid = None

    def close(self) -> None:
        """End the process, and forget it; nobody may be asking it."""
        self.kill()
        self._asked.close()


class Nursery:
    """The process that forks decoders; it starts with the first of them, and again if it has ended."""

    def __init__(self, most_bytes: int) -> None:
        """Nothing runs yet; `most_bytes`: how much memory each decoder may take."""
        self._most_bytes = most_bytes
        self._process: subprocess.Popen[bytes] | None = None
        self._orders: socket.socket | None = None

    async def fork(self) -> Decoder:
        """Have a decoder forked.

        Raises:
            EOFError: it ended at once, twice.
        """
        try:
            return await self._forked()
        except (EOFError, OSError):
            self.close()
            return await self._forked()

    def close(self) -> None:
        """End it; the decoders end with it."""
        if self._process is not None and self._orders is not None:
            self._orders.close()
            self._process.kill()
            self._process.wait()
            self._process = self._orders = None

    async def _forked(self) -> Decoder:
        orders = self._orders or self._start()
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                socket.send_fds(orders, [b"+"], [theirs.fileno()])
            ours.setblocking(False)
            (pid,) = LENGTH.unpack(await _received(ours, LENGTH.size))
            return Decoder(ours, pid)
        except BaseException:
            ours.close()  # at which the process ends, if there is one
            raise

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        module = "offramp.serving.decoding.forked"
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "offramp.serving.child", module, str(self._most_bytes)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env=os.environ | _ENVIRONMENT,
                process_group=0,  # Ctrl-C at the terminal is for the node
            )
        self._orders = ours
        return ours


def _file_in_memory() -> BinaryIO:
    # A large file gets through a socket only bit by bit.
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("offramp"), "wb")
    return cast("BinaryIO", tempfile.TemporaryFile())


async def _received(asked: socket.socket, length: int) -> bytearray:
    """Receive so many bytes.

    Raises:
        EOFError: the other end was closed before.
    """
    loop = asyncio.get_running_loop()
    found = bytearray(length)
    rest = memoryview(found)
    while rest:
        count = await loop.sock_recv_into(asked, rest)
        if not count:
            raise EOFError("the process ended")
        rest = rest[count:]
    return found
