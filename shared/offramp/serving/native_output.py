"""What gRPC and other native libraries write to standard error, as log lines; they never wait for who reads the log.

They write to the descriptor themselves: a full pipe would stop a thread of theirs, and with it every new connection. So
the descriptor leads to a pipe of our own that is read at once, and never blocks whoever writes.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import re
import sys
import time
from threading import Thread

from offramp.logs import line

_log = logging.getLogger("offramp.serving.native")

_STDERR = 2
_EVERY_S = 1.0  # lines in between are counted
_MOST_CHARACTERS = 400
_HANDSHAKE = "Handshake failed"
# gRPC's own mark: severity and date, time, thread, place in its source.
_MARK = re.compile(r"^[IWE]\d{4} \S+\s+\d+ \S+\] ")


def log_native_output() -> None:
    """Turn it into log lines from now on. Call it before `start_logging`, in the process of a node."""
    sys.stderr.flush()
    sys.stderr = os.fdopen(os.dup(_STDERR), "w", buffering=1, errors="backslashreplace")
    faulthandler.enable(sys.stderr)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    os.dup2(writing, _STDERR)
    os.close(writing)
    Thread(target=_read, args=(reading,), name="native output", daemon=True).start()


def _read(descriptor: int) -> None:
    said_at, unsaid = -_EVERY_S, 0
    with os.fdopen(descriptor, "rb") as written:
        for each in written:
            text = each[: 2 * _MOST_CHARACTERS].decode("utf-8", "replace").strip()
            if not _is_worth_a_line(text):
                continue
            if (now := time.monotonic()) < said_at + _EVERY_S:
                unsaid += 1
                continue
            more = {"lines_before": unsaid} if unsaid else {}
            event = "tls_refused" if _HANDSHAKE in text else "native"
            _log.warning(line(event, reason=_MARK.sub("", text)[:_MOST_CHARACTERS], **more))
            said_at, unsaid = now, 0


def _is_worth_a_line(text: str) -> bool:
    is_only_information = _MARK.match(text) and text.startswith("I")
    return (
        bool(text)
        and "not suitable for production" not in text
        and (_HANDSHAKE in text or not is_only_information)
    )
