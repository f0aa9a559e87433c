"""The settings of an edge node, from the command line, `EDGE_*` variables or a TOML file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_settings import SettingsConfigDict

from offramp.errors import ConfigError
from offramp.serving.http.limits import HttpLimits, check_open_files, usual_connections
from offramp.serving.settings import NodeSettings
from offramp.wire.messages import TIER_NAME

_NO_FILE = "'{}' is not a file in a folder that exists; make the folder first, or name another file"


def _in_a_folder(file: Path) -> Path:
    if not file.absolute().parent.is_dir() or file.is_dir():
        raise ValueError(_NO_FILE.format(file))
    return file


def _replaceable(file: Path) -> Path:
    folder = _in_a_folder(file).absolute().parent
    if file.exists() and not file.is_file():
        raise ValueError(_NO_FILE.format(file))
    if not os.access(folder, os.W_OK):
        raise ValueError(
            f"this user may not write in '{folder}', but each change replaces the file there; name another file"
        )
    return file


class EdgeSettings(NodeSettings):
    """Settings of one edge node."""

    model_config = SettingsConfigDict(env_prefix="EDGE_")

    port: int = Field(default=8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    unix_socket: Annotated[Path, AfterValidator(_in_a_folder)] | None = Field(
        default=None,
        description="file of a Unix socket to listen on instead, for callers on the same machine; whoever may write to "
        "the file may connect",
    )
    tier: str = Field(
        default="edge",
        pattern=TIER_NAME,
        description="name of this tier in answers and logs",
    )
    processes: int = Field(
        default=1, ge=1, le=256, description="processes behind the port; one per core under heavy load"
    )
    max_body_bytes: int = Field(default=32_000_000, ge=1, description="largest request body")
    max_images: int = Field(default=64, ge=1, description="most images in one request")
    max_buffered_bytes: int = Field(
        default=256_000_000,
        ge=1,
        description="bytes of bodies held at the same time; more are refused at once (503)",
    )
    max_connections: int = Field(
        default_factory=usual_connections,
        ge=1,
        description="most open connections; beyond it, those that wait are closed to make room, and if all are at "
        "work, new ones get 503 (default: 4096, or fewer if the process may not open so many files)",
    )
    head_timeout_s: float = Field(
        default=10.0, gt=0, description="how long the head of a request may take to arrive"
    )
    idle_timeout_s: float = Field(
        default=30.0, gt=0, description="how long a connection may stay open without a request"
    )
    body_timeout_s: float = Field(default=30.0, gt=0, description="how long a body may take to arrive")
    policy_file: Annotated[Path, AfterValidator(_replaceable)] | None = Field(
        default=None,
        description="file that keeps θ set over REST, so that a change survives a restart; "
        "without it, a restart discards the change",
    )

    def check_limits(self) -> None:
        """Check that the limits leave room for each other.

        Raises:
            ConfigError: the largest body would never be accepted, or a process may not open as many files as it is to
                have connections.
        """
        check_open_files(
            max(1, self.max_connections // self.processes), setting=self.variable("max_connections")
        )
        if self.max_body_bytes > self.max_buffered_bytes:
            body, all_bodies = (self.variable(name) for name in ("max_body_bytes", "max_buffered_bytes"))
            raise ConfigError(
                f"{body} is {self.max_body_bytes}, but all bodies together may take {self.max_buffered_bytes} "
                f"({all_bodies}), so such a body would never be accepted; lower the first or raise the second"
            )

    def share(self) -> EdgeSettings:
        """The settings of one process, with its share of the whole node's limits."""
        shared = (
            *("workers", "decoders", "max_waiting_pixels"),
            *("max_pending", "max_buffered_bytes", "max_connections"),
        )
        parts = {name: max(1, getattr(self, name) // self.processes) for name in shared}
        # A process that has no room for the largest body would never accept one.
        parts["max_buffered_bytes"] = max(parts["max_buffered_bytes"], self.max_body_bytes)
        return EdgeSettings(**{**self.model_dump(include=set(EdgeSettings.model_fields)), **parts})

    @property
    def http_limits(self) -> HttpLimits:
        """The limits of this process's front door."""
        return HttpLimits(
            connections=self.max_connections,
            head_s=self.head_timeout_s,
            idle_s=self.idle_timeout_s,
            drain_s=self.drain_s,
            grace_s=self.grace_s,
        )
