"""Who may write into a run's directory: one training at a time, and none over another run's checkpoints."""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from lightning.pytorch.utilities import rank_zero_only

from offramp.authoring.training.run import RUN_FILE, Run, checkpoint_name, load_run
from offramp.errors import ConfigError

_log = logging.getLogger(__name__)
_NOT_COMPARED = {"provenance": {"commands", "versions"}}


@contextmanager
def claimed(directory: Path, run: Run, *, resume: bool) -> Iterator[None]:
    """Keep a run's directory for this training; what was claimed without getting to a checkpoint is claimed anew.

    Raises:
        ConfigError: another training is at work there; or it has a checkpoint, and `resume` is not set or the settings
            are others. The directory is left as it was then.
    """
    if getattr(rank_zero_only, "rank", 0):
        # Lightning starts the command once more for each further process: only the first one claims.
        yield
        return
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / RUN_FILE).open("a", encoding="utf-8") as file:
        _lock(file, directory)
        if (directory / checkpoint_name(1)).exists():
            _check_same(directory, run, resume=resume)
        else:
            file.truncate(0)
            file.write(run.model_dump_json(indent=2) + "\n")
            file.flush()
        yield


def _lock(file: TextIO, directory: Path) -> None:
    # The lock goes with the process, however it ends.
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(
            f"another training is at work in {directory}; wait for it or choose another directory"
        ) from error
    except OSError:
        _log.info("event=unlocked directory=%r", str(directory))  # a file system without locks


def _check_same(directory: Path, run: Run, *, resume: bool) -> None:
    if not resume:
        raise ConfigError(f"{directory} already holds a run; go on with --resume or choose another directory")
    if load_run(directory).model_dump(exclude=_NOT_COMPARED) != run.model_dump(exclude=_NOT_COMPARED):
        raise ConfigError(
            f"{directory} holds a run with other settings; resume it with its own, to be read in "
            f"{directory / RUN_FILE}"
        )
