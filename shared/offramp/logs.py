"""Logs: one line per event, `key=value`, the same in every process. Nobody who logs ever waits for who reads.

A full pipe blocks whoever writes to it, so only a thread of its own does. While it waits, lines are held up to a limit;
further ones are lost and counted.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from io import UnsupportedOperation
from select import PIPE_BUF
from threading import Event, Lock, Thread
from typing import TextIO

# Most values match this; only the others need a closer look.
_PLAIN = re.compile(r"[!#-<>-~]+")

# Characters of lines that may wait while the writer writes as many others.
_MOST_HELD = 1 << 20
# The writer takes what came meanwhile at most this often: waking it for each line costs more than the line.
_PAUSE_S = 0.01
# How long the end of a process waits for its last lines to be read.
_LAST_LINES_S = 0.5


def start_logging(level: str = "INFO") -> None:
    """Send every log line and warning of this process to standard error. Called once, by an entry point."""
    # Our lines do not show the thread, the process or the source location, so logging need not look them up.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001 - the logging HOWTO recommends it
    handler = UnwaitedHandler(sys.stderr)
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)


def flush_logging() -> None:
    """Wait until all lines so far are written, but not longer than half a second; call it before other output."""
    for handler in logging.getLogger().handlers:
        handler.flush()


def line(event: str, **values: object) -> str:
    """One log line; text with spaces or quotes is quoted, so that the line can be parsed."""
    return " ".join([f"event={event}", *(f"{key}={_shown(value)}" for key, value in values.items())])


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    if isinstance(value, int):
        return text
    if _PLAIN.fullmatch(text):
        return text
    return json.dumps(text) if not text or any(c in ' "=' or not c.isprintable() for c in text) else text


class _Formatter(logging.Formatter):
    """Works out date and time of day once a second: for each line, that takes as long as all the rest of it."""

    _second = -1
    _text = ""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        second = int(record.created)
        if second != self._second:
            self._text = time.strftime(self.default_time_format, self.converter(second))
            self._second = second
        return f"{self._text},{record.msecs:03.0f}"


class LostLines:
    """How many lines this process could not write, because nobody read them in time."""

    def __init__(self) -> None:
        self.total = 0
        self._told: Callable[[int], object] = lambda _: None
        self._lock = Lock()

    def add(self, count: int) -> None:
        """Count lines that are lost."""
        with self._lock:
            self.total += count
            self._told(count)

    def tell(self, told: Callable[[int], object]) -> None:
        """Call `told` with each further count, and now with those so far; it replaces the one before."""
        with self._lock:
            self._told = told
            told(self.total)


lost_lines = LostLines()


class UnwaitedHandler(logging.Handler):
    """Formats lines where they are logged, and writes them in a thread of its own.

    `logging.handlers.QueueHandler` does the same, but wakes its thread for every line, which costs an answer more than
    writing the line did.
    """

    def __init__(self, stream: TextIO, *, most_held: int = _MOST_HELD) -> None:
        """Write to a stream; beyond `most_held` characters that wait, lines are lost."""
        super().__init__()
        self._most_held = most_held
        self._write = _writing_to(stream)
        # Not the handler's own lock: `logging` holds that one while it flushes.
        self._holding = Lock()
        self._lines: list[str] = []
        self._held = 0
        self._told = lost_lines.total
        self._is_closed = False
        self._some, self._none, self._hurry = Event(), Event(), Event()
        self._none.set()
        self._process = os.getpid()
        Thread(target=self._run, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a line to the writer, or count it as lost."""
        text = self.format(record) + "\n"
        if self._process != os.getpid():
            self._put([text])  # a fork has no writer
            return
        with self._holding:
            fits = self._held + len(text) <= self._most_held
            if fits:
                self._lines.append(text)
                self._held += len(text)
                self._none.clear()
            else:
                lost_lines.add(1)  # before the writer looks, so that it tells where they are missing
        if fits and not self._some.is_set():
            self._some.set()
        if record.levelno >= logging.ERROR:
            self._hurry.set()

    def flush(self) -> None:
        """Wait until all lines so far are written, but not longer than half a second."""
        if self._process == os.getpid():
            self._hurry.set()
            self._none.wait(_LAST_LINES_S)

    def close(self) -> None:
        """Write the last lines and end the writer."""
        self.flush()
        self._is_closed = True
        self._some.set()
        self._hurry.set()
        super().close()

    def _run(self) -> None:
        while not self._is_closed:
            self._some.wait()
            with self._holding:
                lines, self._lines, self._held = self._lines, [], 0
                lost = lost_lines.total  # after these lines, because there was no room behind them
                self._some.clear()
            self._put(lines)
            self._tell_of_lost(lost)
            with self._holding:
                if not self._lines:
                    self._none.set()
            self._hurry.wait(_PAUSE_S)
            self._hurry.clear()

    def _put(self, lines: Sequence[str]) -> None:
        for count, text in _in_parts(lines):
            try:
                self._write(text)
            except (OSError, ValueError):  # nobody is left to read it, or the stream is closed
                lost_lines.add(count)

    def _tell_of_lost(self, total: int) -> None:
        if total == self._told:
            return
        said = line("log_lines_lost", lines=total - self._told, detail="nobody read the log in time")
        record = logging.LogRecord("offramp.logs", logging.WARNING, "", 0, said, None, None)
        with suppress(OSError, ValueError):  # then it is told with the next line that can be written
            self._write(self.format(record) + "\n")
            self._told = total


def _in_parts(lines: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Lines joined into as few parts as a pipe keeps whole when several processes write to it, and their numbers."""
    part: list[str] = []
    size = 0
    for each in lines:
        if part and size + len(each) > PIPE_BUF:
            yield len(part), "".join(part)
            part, size = [], 0
        part.append(each)
        size += len(each)
    if part:
        yield len(part), "".join(part)


def _writing_to(stream: TextIO) -> Callable[[str], object]:
    """How to write to a stream: past its buffer if it has a descriptor, so that a closed pipe leaves nothing behind."""
    try:
        descriptor = stream.fileno()
    except (AttributeError, UnsupportedOperation, ValueError):
        return stream.write

    def write(text: str) -> None:
        data = text.encode("utf-8", "backslashreplace")
        while data:
            data = data[os.write(descriptor, data) :]

    return write
