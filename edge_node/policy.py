"""The run-time policy: the θ in force, which can change between two requests.

A node that remembers its policy, or that runs as several processes, keeps it in a file. Each change replaces the whole
file. Each process checks the file at most once a millisecond, which costs a busy node next to nothing. A change is
confirmed only after every process has had to check again, so it applies to the next request in all of them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from time import monotonic, sleep, time_ns
from typing import BinaryIO

from pydantic import BaseModel, ConfigDict, ValidationError

from edge_node.errors import NotKeptError
from offramp.bundle import Manifest
from offramp.engine.tier import checked_thetas
from offramp.errors import ConfigError
from offramp.logs import line

_log = logging.getLogger("edge_node")

_MAX_BYTES = 65_536  # of the file; the rest is not read
_LOOK_EVERY_S = 0.001


@dataclass(frozen=True)
class PolicyState:
    """θ in force, and the name of the operating point they came from; None when set by hand."""

    thetas: tuple[float, ...]
    operating_point: str | None


# Identifies one version of the file: inode, time of the last change in nanoseconds, size in bytes.
_Version = tuple[int, int, int]


class _Kept(BaseModel):
    """The contents of the file: the bundle that the change was for, and either θ or the name of an operating point."""

    model_config = ConfigDict(extra="forbid", strict=True)

    bundle: str
    thetas: list[float] | None = None
    operating_point: str | None = None


class Policy:
    """Holds the policy. Each request reads it once, so no request sees half a change.

    It can be pickled and sent to another process; then both follow the same file.
    """

    def __init__(
        self, manifest: Manifest, file: Path | None = None, *, outlives_restart: bool = True
    ) -> None:
        """Load the policy from `file`, or take the bundle's default if the file has none that fits.

        Args:
            manifest: of the bundle that is served.
            file: where changes are saved, in a folder that exists; None keeps them in memory only.
            outlives_restart: whether the file stays when the node ends.
        """
        self.outlives_restart = file is not None and outlives_restart
        self._manifest = manifest
        self._file = None if file is None else str(file.resolve())
        self._seen: _Version | None = None
        self._look_at = 0.0
        self._state = PolicyState(manifest.operating_point.thetas, manifest.default_operating_point)
        if self.state.operating_point != manifest.default_operating_point:
            _log.info(line("policy_kept", file=self._file, thetas=self._state.thetas))

    @property
    def state(self) -> PolicyState:
        """The policy in force; read it from one thread only."""
        if self._file is not None and (now := monotonic()) >= self._look_at:
            self._follow(self._file)
            self._look_at = now + _LOOK_EVERY_S
        return self._state

    def set_thetas(self, thetas: Sequence[float]) -> None:
        """Use these θ from the next request on; waits for the disk.

        Raises:
            ConfigError: they do not fit the bundle; nothing is changed.
            NotKeptError: the file cannot be written; nothing is changed.
        """
        self._change(_Kept(bundle=self._manifest.bundle_id, thetas=list(thetas)))

    def choose(self, name: str) -> None:
        """Use the θ of an operating point of the bundle from the next request on; waits for the disk.

        Raises:
            ConfigError: there is no point of that name; nothing is changed.
            NotKeptError: the file cannot be written; nothing is changed.
        """
        self._change(_Kept(bundle=self._manifest.bundle_id, operating_point=name))

    def _change(self, kept: _Kept) -> None:
        state = self._checked(kept)
        if self._file is None:
            self._state = state
        else:
            _replace(Path(self._file), kept.model_dump_json(exclude_none=True).encode())
            sleep(_LOOK_EVERY_S)

    def _checked(self, kept: _Kept) -> PolicyState:
        manifest = self._manifest
        if kept.bundle != manifest.bundle_id:
            raise ConfigError(f"it is for bundle '{kept.bundle}', this node serves '{manifest.bundle_id}'")
        match kept.thetas, kept.operating_point:
            case list(thetas), None:
                return PolicyState(checked_thetas(thetas, manifest), None)
            case None, str(name):
                thetas_of = {point.name: point.thetas for point in manifest.operating_points}
                if name not in thetas_of:
                    raise ConfigError(f"no operating point '{name}'; the bundle has {', '.join(thetas_of)}")
                return PolicyState(thetas_of[name], name)
            case _:
                raise ConfigError("it needs either thetas or operating_point")

    def _follow(self, file: str) -> None:
        try:
            found = os.stat(file)  # noqa: PTH116 - on the hot path, where a Path would double the cost
        except OSError:
            return  # no change was made yet, or the file was removed: the policy stays as it is
        if _version(found) == self._seen:
            return
        try:
            with open(file, "rb") as opened:  # noqa: PTH123 - as above
                self._read(opened)
        except OSError as error:
            self._seen = _version(found)
            self._ignore(str(error.strerror))

    def _read(self, opened: BinaryIO) -> None:
        # The version of the file that is open: the path may lead to a newer one by now.
        version = _version(os.fstat(opened.fileno()))
        try:
            state = self._checked(_Kept.model_validate_json(opened.read(_MAX_BYTES)))
        except ValidationError as error:
            first = error.errors()[0]
            self._ignore(f"{'.'.join(map(str, first['loc'])) or 'file'}: {first['msg']}")
        except ConfigError as error:
            self._ignore(str(error))
        else:
            self._state = state
        self._seen = version

    def _ignore(self, reason: str) -> None:
        # The policy stays as it was: at the start, the bundle's default.
        _log.warning(line("policy_ignored", file=self._file, detail=reason, thetas=self._state.thetas))


def _version(found: os.stat_result) -> _Version:
    return found.st_ino, found.st_mtime_ns, found.st_size


def _replace(file: Path, data: bytes) -> None:
    beside = file.with_name(f".{file.name}.{token_hex(8)}")
    try:
        with beside.open("xb") as written:
            written.write(data)
            written.flush()
            os.fsync(written.fileno())
            # Within one tick of the file system's clock, two versions could share both inode and time.
            os.utime(written.fileno(), ns=(time_ns(), time_ns()))
        beside.replace(file)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise NotKeptError(
            f"the change cannot be saved in {file}: {error.strerror}; θ stays as it was"
        ) from error
