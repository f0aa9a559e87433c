"""What every node can be told, by command line or environment; the environment over the default."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from offramp.engine.runtime import Runtime
from offramp.errors import ConfigError
from offramp.logs import line

_log = logging.getLogger("offramp.serving.settings")


def _block_range(text: str) -> str:
    found = re.fullmatch(r"([0-9]{1,4})-([0-9]{1,4})", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError(f"blocks '{text}' is not a range; write FIRST-LAST, as in 1-2, both included")
    return text


def _target(text: str) -> str:
    addresses = re.sub(r"^(dns:///|dns:|ipv4:|ipv6:)", "", text).split(",")
    ports = [
        re.fullmatch(r"[^\s/:]+:([0-9]{1,5})|\[[0-9a-fA-F:.]+\]:([0-9]{1,5})", each) for each in addresses
    ]
    if not all(port and 1 <= int(port[1] or port[2]) <= 65535 for port in ports):
        raise ValueError(
            f"upstream '{text}' is no address; write HOST:PORT, or dns:///NAME:PORT for several replicas"
        )
    return text


class Settings(BaseSettings):
    """Settings of one process: read once, never changed."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

    @classmethod
    def read(cls, environment: Mapping[str, str], **given: object) -> Self:
        """Read the settings: what is given on the command line, then the environment, then the defaults.

        Raises:
            ConfigError: a value that does not fit, one that is missing, or a misspelt variable.
        """
        prefix = str(cls.model_config["env_prefix"])
        _check_names(prefix, {f"{prefix}{name}".upper() for name in cls.model_fields}, environment)
        try:
            # Values come from a command line; pydantic checks them here, so the types cannot be known before.
            return cls(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0]) if first["loc"] else "settings"
            got = "" if first["type"] == "missing" else f", got {first['input']!r}"
            raise ConfigError(
                f"--{name.replace('_', '-')} or {prefix}{name.upper()}: {first['msg']}{got}"
            ) from error


class NodeSettings(Settings):
    """Settings that both kinds of node share. Durations are in seconds."""

    bundle: Path
    host: str = Field(default="127.0.0.1", min_length=1)
    port: int = Field(ge=0, le=65535)
    tier: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,39}$")
    blocks: Annotated[str, AfterValidator(_block_range)] | None = None
    upstream: Annotated[str, AfterValidator(_target)] | None = None
    upstream_health_check: bool = True
    offload_timeout_s: float = Field(default=1.0, gt=0)
    offload_window_ms: float = Field(
        default=2.0, ge=0, le=1000, description="kept waiting for others while a call is under way"
    )
    workers: int = Field(default=os.cpu_count() or 1, ge=1, le=256)
    runtime: Runtime = "onnx"
    threads: int = Field(default=1, ge=1, le=256)
    max_pending: int = Field(default=256, ge=1)
    max_batch: int = Field(default=32, ge=1, description="samples of different calls that run together")
    batch_window_ms: float = Field(default=0.0, ge=0, le=1000, description="kept waiting for them; for a GPU")
    otlp_endpoint: str | None = Field(default=None, pattern=r"^https?://")
    trace_share: float = Field(default=1.0, ge=0, le=1, description="of requests that are traced")
    grace_s: float = Field(default=5.0, gt=0)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"


def _check_names(prefix: str, known: set[str], environment: Mapping[str, str]) -> None:
    for name in sorted(environment):
        if not name.startswith(prefix) or name in known:
            continue
        if meant := get_close_matches(name, known, n=1, cutoff=0.8):
            raise ConfigError(f"unknown variable {name}; did you mean {meant[0]}?")
        # Other programs use such names too (CLOUD_SDK_VERSION): say so, but start.
        _log.warning(line("ignored", variable=name, detail="no setting of this node"))


def reason_of(error: OSError) -> str:
    """Why a port could not be taken, without what Python adds to it."""
    return str(error.strerror).partition(" (while")[0]
