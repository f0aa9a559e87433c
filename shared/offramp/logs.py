"""Logs: one line per event, `key=value`, the same in every process."""

from __future__ import annotations

import json
import logging
import re
import sys

# Most values match this; only the others need a closer look.
_PLAIN = re.compile(r"[!#-<>-~]+")


def start_logging(level: str = "INFO") -> None:
    """Send every log line of this process to standard error. Called once, by an entry point."""
    # Our lines do not show the thread, the process or the source location, so logging need not look them up.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001 - the logging HOWTO recommends it
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)


def line(event: str, **values: object) -> str:
    """One log line; text with spaces or quotes is quoted, so that the line can be parsed."""
    return " ".join([f"event={event}", *(f"{key}={_shown(value)}" for key, value in values.items())])


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    if _PLAIN.fullmatch(text):
        return text
    return json.dumps(text) if not text or any(c in ' "=' or not c.isprintable() for c in text) else text
