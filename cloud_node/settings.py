"""Settings of a cloud node, from `CLOUD_*` or the command line."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from offramp.serving.settings import NodeSettings


class CloudSettings(NodeSettings):
    """One cloud node, or one middle tier."""

    model_config = SettingsConfigDict(env_prefix="CLOUD_", frozen=True, extra="forbid")

    port: int = Field(default=50051, ge=0, le=65535)
    tier: str = Field(default="cloud", pattern=r"^[a-z0-9][a-z0-9._-]{0,39}$")
    drain_s: float = Field(default=0.5, ge=0)
    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    max_samples: int = Field(default=1024, ge=1)
