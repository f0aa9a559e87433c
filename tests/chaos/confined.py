"""A limit on a node's memory that the kernel enforces, as containers have it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
# Where groups are made, the file with their limit, the file that counts those that were killed: cgroup v2, v1.
_KINDS = (
    (_ROOT, "memory.max", "memory.events"),
    (_ROOT / "memory", "memory.limit_in_bytes", "memory.oom_control"),
)
_NUMBERS = count()
_LEAVE_S = 5.0


@dataclass(frozen=True)
class Confinement:
    """A control group. `enter`: what a shell does first so that it, and all below it, are in the group."""

    folder: Path
    killed_file: str

    @property
    def enter(self) -> str:
        """A shell's command."""
        return f"echo $$ > {self.folder / 'cgroup.procs'}"

    @property
    def killed(self) -> int:
        """How many processes the kernel has killed because the group had no more memory."""
        found = re.search(r"^oom_kill (\d+)$", (self.folder / self.killed_file).read_text(), re.MULTILINE)
        return int(found[1]) if found else 0


@contextmanager
def confined(megabytes: int) -> Iterator[Confinement | None]:
    """A group with so much memory; None where none can be made: that takes root and a cgroup file system."""
    for root, limit, killed_file in _KINDS:
        if not (root / "cgroup.procs").exists():
            continue
        folder = root / f"offramp-chaos-{time.time_ns()}-{next(_NUMBERS)}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            (folder / limit).write_text(str(megabytes * 2**20))
        except OSError:
            folder.rmdir()
            continue
        try:
            yield Confinement(folder, killed_file)
        finally:
            _remove(folder)
        return
    yield None


def _remove(folder: Path) -> None:
    """The kernel needs a moment after the last process has ended."""
    end = time.monotonic() + _LEAVE_S
    while folder.exists() and time.monotonic() < end:
        with suppress(OSError):
            folder.rmdir()
            return
        time.sleep(0.05)
