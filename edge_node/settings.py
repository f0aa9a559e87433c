"""Settings of an edge node, from `EDGE_*` or the command line."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from offramp.serving.settings import NodeSettings


class EdgeSettings(NodeSettings):
    """One edge node."""

    model_config = SettingsConfigDict(env_prefix="EDGE_", frozen=True, extra="forbid")

    port: int = Field(default=8000, ge=0, le=65535)
    tier: str = Field(default="edge", pattern=r"^[a-z0-9][a-z0-9._-]{0,39}$")
    max_body_bytes: int = Field(default=10_000_000, ge=1)
    max_images: int = Field(default=64, ge=1)
    max_pixels: int = Field(default=25_000_000, ge=1)
    max_buffered_bytes: int = Field(default=256_000_000, ge=1)
    body_timeout_s: float = Field(default=30.0, gt=0)
    processes: int = Field(default=1, ge=1, le=256)

    def share(self) -> EdgeSettings:
        """What one of its processes may use of what the whole node may."""
        shared = ("workers", "max_pending", "max_buffered_bytes")
        return self.model_copy(
            update={name: max(1, getattr(self, name) // self.processes) for name in shared}
        )
