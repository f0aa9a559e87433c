"""What a training says when a signal ends it; Lightning alone would end the process with status 0 or 1."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch.utilities.exceptions import SIGTERMException

from offramp.errors import StoppedError


@contextmanager
def stopping_said(directory: Path) -> Iterator[None]:
    """Turn the ways in which Lightning ends a fit after a signal into an error that says how to go on.

    Args:
        directory: of the run.

    Raises:
        StoppedError: SIGTERM, or Ctrl-C.
    """
    try:
        yield
    except SIGTERMException as error:
        raise _stopped(directory, signal.SIGTERM) from error
    except SystemExit as error:
        # After a KeyboardInterrupt, which it notes as the context, Lightning exits with status 1.
        if isinstance(error.__context__, KeyboardInterrupt):
            raise _stopped(directory, signal.SIGINT) from error
        raise


def _stopped(directory: Path, number: signal.Signals) -> StoppedError:
    reason = "Ctrl-C" if number is signal.SIGINT else number.name
    return StoppedError(
        f"training stopped by {reason}; the same command with --resume continues from the last epoch that {directory} "
        "has",
        number,
    )
