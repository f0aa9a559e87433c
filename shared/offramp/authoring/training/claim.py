"""Reserves a run's directory for one training at a time, and protects the checkpoints of another run."""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from lightning.pytorch.utilities import rank_zero_only

from offramp.authoring.training.run import RUN_FILE, Run, checkpoint_name, load_run
from offramp.errors import ConfigError

_log = logging.getLogger(__name__)
_NOT_COMPARED = {"provenance": {"commands", "versions"}}


@contextmanager
def claimed(directory: Path, run: Run, *, resume: bool) -> Iterator[None]:
    """Reserve a run's directory for this training; a run that never wrote a checkpoint is replaced.

    Raises:
        ConfigError: another training is using the directory; or it has a checkpoint, and `resume` is not set or the
            settings differ. The directory stays as it was.
    """
    if getattr(rank_zero_only, "rank", 0):
        # Lightning runs the command again for each further process; only the first one claims the directory.
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
    # The lock is released when the process ends, however it ends.
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(
            f"another training is using {directory}; wait for it or choose another directory"
        ) from error
    except OSError:
        _log.info("event=unlocked directory=%r", str(directory))  # a file system without locks


def _check_same(directory: Path, run: Run, *, resume: bool) -> None:
    if not resume:
        raise ConfigError(
            f"{directory} already has a run; continue it with --resume or choose another directory"
        )
    before, now = (_settings(each.model_dump(exclude=_NOT_COMPARED)) for each in (load_run(directory), run))
    if differing := [name for name in {**before, **now} if before.get(name) != now.get(name)]:
        name = differing[0]
        raise ConfigError(
            f"{directory} has a run with other settings: {name} is {before.get(name)} there and {now.get(name)} here; "
            f"resume it with its own settings, which are in {directory / RUN_FILE}"
        )


def _settings(values: Mapping[str, Any], within: str = "") -> dict[str, Any]:
    """Every setting by its full name, such as `recipe.learning_rate`."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _settings(value, f"{within}{name}.") if isinstance(value, dict) else {within + name: value}
    return found
