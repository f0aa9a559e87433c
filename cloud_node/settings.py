"""The settings of a cloud node, from the command line, `CLOUD_*` variables or a TOML file."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from offramp.command import Texts
from offramp.serving.settings import NodeSettings
from offramp.wire.messages import TIER_NAME


class CloudSettings(NodeSettings):
    """Settings of one cloud node, or of one middle tier."""

    model_config = SettingsConfigDict(env_prefix="CLOUD_")

    port: int = Field(default=50051, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    tier: str = Field(
        default="cloud",
        pattern=TIER_NAME,
        description="name of this tier in answers and logs",
    )
    metrics_port: int | None = Field(
        default=None, ge=0, le=65535, description="HTTP port that serves /metrics (default: no metrics)"
    )
    client_names: Texts = Field(
        default=(),
        description="names in the certificates of the edges that may ask, separated by commas; empty: all certificates "
        "that tls_client_ca signed",
    )
    max_samples: int = Field(default=1024, ge=1, description="most samples in one call")
    max_message_bytes: int = Field(
        default=4 * 1024 * 1024,
        ge=1,
        description="largest message; a caller splits what is larger. One sample always fits, whatever its size",
    )
    max_buffered_bytes: int = Field(
        default=256_000_000,
        ge=1,
        description="bytes of messages held at the same time; one that is still arriving counts as the largest. "
        "Further ones wait",
    )
    max_streams: int = Field(
        default=20_000,
        ge=2,
        description="most calls that stay open: every edge process has a health watch, and streams while it offloads "
        "often; one host may have half of them",
    )
    message_timeout_s: float = Field(default=10.0, gt=0, description="how long a message may take to arrive")
