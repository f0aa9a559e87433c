"""The parts of an edge node's answers that the dashboard reads; other fields are ignored."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

Share = Annotated[float, Field(ge=0, le=1)]
Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Policy(BaseModel):
    """The policy in force, as the node reports it."""

    thetas: tuple[Share, ...]
    operating_point: str | None
    outlives_restart: bool


class Upstream(BaseModel):
    """The next tier, as the node sees it."""

    target: str
    up: bool
    reason: str | None


class Readiness(BaseModel):
    """Whether the node can answer."""

    ready: bool
    upstream: Upstream | None


class ExitTaken(BaseModel):
    """Where a sample left."""

    number: int = Field(ge=1)
    name: str
    tier: str


class ExitRun(BaseModel):
    """One of the exits that were run for a sample; theta is None for the last exit, which always answers."""

    number: int = Field(ge=1)
    confidence: Share | None
    theta: Share | None


class Timings(BaseModel):
    """Milliseconds of one request."""

    decode: Milliseconds
    edge_compute: Milliseconds
    offload: Milliseconds
    total: Milliseconds


class UpstreamTime(BaseModel):
    """Milliseconds that an upstream tier reports for its own part."""

    tier: str
    queue: Milliseconds
    compute: Milliseconds


class Prediction(BaseModel):
    """The answer for one photo."""

    label: str
    confidence: Share
    exit: ExitTaken
    exits: tuple[ExitRun, ...]
    degraded: bool
    degraded_reason: str | None
    timings_ms: Timings
    sent: str
    uplink_bytes: int = Field(ge=0)
    upstream_ms: tuple[UpstreamTime, ...] = ()
    probabilities: dict[str, Share] = Field(min_length=1)
