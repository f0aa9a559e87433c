"""Runs nodes as child processes: starts them, waits until they are ready, and never leaves one behind."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from offramp.errors import ConfigError

_START_S = 60.0
_STOP_S = 15.0
_READY = re.compile(r"event=ready .*\baddress=(\S+)")


class NodeProcess:
    """One running node: its name and the address it listens on."""

    def __init__(self, name: str, process: subprocess.Popen[str], show: Callable[[str], None]) -> None:
        self.name = name
        self.address = ""
        self._process = process
        self._show = show
        self._last_lines: deque[str] = deque(maxlen=5)
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def is_running(self) -> bool:
        """Whether the process is still running."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def wait_until_ready(self) -> None:
        """Wait for the node to say where it listens.

        Raises:
            ConfigError: it ended or logged no address in time; the message has the node's last line.
        """
        self._ready.wait(_START_S)
        if not self.address:
            said = self._last_lines[-1] if self._last_lines else "it said nothing"
            raise ConfigError(f"the {self.name} node did not start: {said.removeprefix('error: ')}")

    def terminate(self) -> None:
        """Ask the node to finish its requests and stop (SIGTERM)."""
        self._process.terminate()

    def kill(self) -> None:
        """End the node at once, whatever it is doing (SIGKILL)."""
        self._process.kill()

    def wait(self) -> int:
        """Wait for the node to end, and kill it if that takes too long; returns its exit status."""
        try:
            return self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def close(self) -> None:
        """Read the rest of the log of a node that has ended."""
        self._reader.join()
        assert self._process.stderr is not None
        self._process.stderr.close()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._last_lines.append(line.strip())
            if found := _READY.search(line):
                self.address = found[1]
                self._ready.set()
            if not line.startswith("error: "):
                self._show(f"{self.name} | {line.rstrip()}")
        self._ready.set()


@contextmanager
def node_process(
    module: str, arguments: Sequence[str], *, name: str, show: Callable[[str], None] = lambda _: None
) -> Iterator[NodeProcess]:
    """Run `python -m module`; it is ready on entry, and has ended on exit.

    Args:
        module: `edge_node` or `cloud_node`.
        arguments: of its command line.
        name: for messages.
        show: called with each line that the node logs.

    Raises:
        ConfigError: it does not start.
    """
    process = subprocess.Popen(
        # -P: a folder in the current directory must not be imported instead of one of our packages.
        [sys.executable, "-P", "-m", "offramp.serving.child", module, *arguments],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    node = NodeProcess(name, process, show)
    try:
        node.wait_until_ready()
        yield node
    finally:
        node.terminate()
        node.wait()
        node.close()
