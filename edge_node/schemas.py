"""What the REST interface takes and gives, as the OpenAPI page shows it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class ExitTaken(BaseModel):
    """Where the sample left."""

    number: int = Field(ge=1, description="exits count from 1, shallow to deep")
    name: str
    tier: str = Field(description="the tier that exit sits on")


class Timings(BaseModel):
    """Milliseconds of the whole request this sample came in."""

    decode: float = Field(ge=0)
    edge_compute: float = Field(ge=0)
    offload: float = Field(ge=0, description="waiting for the upstream; 0 if it was not needed")
    total: float = Field(ge=0)


class UpstreamTime(BaseModel):
    """Milliseconds that an upstream tier reports of itself."""

    tier: str
    queue: float = Field(ge=0)
    compute: float = Field(ge=0)


class Prediction(BaseModel):
    """The answer for one image."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "request_id": "5be1c9a2f0d34e77",
                    "label": "sandal",
                    "class_index": 5,
                    "confidence": 0.98,
                    "exit": {"number": 1, "name": "exit-1", "tier": "edge"},
                    "degraded": False,
                    "degraded_reason": None,
                    "timings_ms": {"decode": 0.1, "edge_compute": 0.1, "offload": 0.0, "total": 0.5},
                    "sent": "nothing",
                    "uplink_bytes": 0,
                    "bundle": "b-lenet-fashion-0123456789ab",
                }
            ]
        },
    )

    request_id: str
    label: str
    class_index: int = Field(ge=0)
    confidence: float = Field(ge=0, le=1)
    exit: ExitTaken
    degraded: bool = Field(description="answered by the surest exit at hand because the upstream did not")
    degraded_reason: str | None
    timings_ms: Timings
    sent: Literal["nothing", "feature", "image"] = Field(
        description="what the next tier answered from: the feature, or the photo as it came where that is smaller"
    )
    uplink_bytes: int = Field(ge=0, description="this sample's share of the message sent upstream")
    bundle: str
    upstream_ms: list[UpstreamTime] | None = None
    probabilities: dict[str, float] | None = Field(default=None, description="only with ?probabilities=true")


class Predictions(BaseModel):
    """The answers for several images, in their order."""

    predictions: list[Prediction]


class Problem(BaseModel):
    """Why a request was refused."""

    error: str = Field(description="what was found, what was expected, what to do")
    code: str = Field(description="the same in a word, for programs", examples=["too_large"])


class PolicyIn(BaseModel):
    """A change of policy: θ by hand, or an operating point of the bundle by name."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"thetas": [0.9]}]})

    thetas: list[Annotated[float, Field(strict=True)]] | None = None
    operating_point: str | None = None


class PolicyOut(BaseModel):
    """The policy in force."""

    thetas: list[float] = Field(description="θ of every exit but the last, which always answers")
    operating_point: str | None = Field(description="null when θ were set by hand")
    operating_points: list[str] = Field(description="those of the bundle")
    outlives_restart: bool = Field(
        description="whether a change is kept when the node restarts: with EDGE_POLICY_FILE it is"
    )


class Upstream(BaseModel):
    """The next tier, as this node sees it."""

    target: str
    up: bool
    reason: str | None


class Readiness(BaseModel):
    """Whether the node can answer, and how well."""

    ready: bool
    bundle: str
    upstream: Upstream | None
