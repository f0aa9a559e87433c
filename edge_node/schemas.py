"""The requests and responses of the REST interface, as the OpenAPI page shows them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class ExitTaken(BaseModel):
    """The exit where the sample left."""

    number: int = Field(ge=1, description="exits count from 1, shallow to deep")
    name: str
    tier: str = Field(description="the tier that has this exit")


class ExitRun(BaseModel):
    """One of the exits that were run for a sample, on whatever tier."""

    number: int = Field(ge=1)
    confidence: float | None = Field(ge=0, le=1, description="null if it is not a number")
    theta: float | None = Field(
        description="θ it was compared with; null for the last exit, which always answers"
    )


class Timings(BaseModel):
    """Milliseconds for the whole request that the sample came in."""

    decode: float = Field(ge=0)
    edge_compute: float = Field(ge=0)
    offload: float = Field(
        ge=0,
        description="waiting for the upstream; 0 if no exit here was unsure, or if the upstream is "
        "known to be down and was not asked",
    )
    total: float = Field(ge=0)


class UpstreamTime(BaseModel):
    """Milliseconds that an upstream tier reports for itself."""

    tier: str
    queue: float = Field(ge=0)
    compute: float = Field(ge=0)


class LabelGiven(BaseModel):
    """One of several labels of an image."""

    label: str
    class_index: int = Field(ge=0)
    probability: float = Field(ge=0.5, le=1)


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
                    "exits": [{"number": 1, "confidence": 0.98, "theta": 0.89}],
                    "unfamiliar": False,
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
    label: str | None = Field(default=None, description="only if the bundle gives one label")
    class_index: int | None = Field(default=None, ge=0, description="likewise")
    labels: list[LabelGiven] | None = Field(
        default=None,
        description="only if the bundle gives any number of labels: those given, likeliest first",
    )
    quantity: str | None = Field(default=None, description="only if the bundle estimates one: its name")
    value: float | None = Field(default=None, description="its value")
    std: float | None = Field(
        default=None, gt=0, description="standard deviation of the value's error, as the network estimates it"
    )
    unit: str | None = Field(default=None, description="of value and std; may be empty")
    confidence: float = Field(ge=0, le=1)
    exit: ExitTaken
    exits: list[ExitRun] = Field(
        description="every exit that was run, shallow to deep; those of an upstream that does not tell are missing"
    )
    unfamiliar: bool | None = Field(
        description="whether an exit it came to finds the image unlike those the network knows; null if the bundle has "
        "no guard"
    )
    degraded: bool = Field(
        description="answered by the most confident exit available because the upstream did not answer"
    )
    degraded_reason: str | None
    timings_ms: Timings
    sent: Literal["nothing", "feature", "image", "pixels"] = Field(
        description="what the next tier answered from: the feature, the original photo, or the network's own picture"
    )
    uplink_bytes: int = Field(ge=0, description="this sample's share of the message sent upstream")
    bundle: str
    upstream_ms: list[UpstreamTime] | None = None
    probabilities: dict[str, float] | None = Field(
        default=None, description="only with ?probabilities=true; never for a quantity"
    )


class Predictions(BaseModel):
    """The answers for several images, in the order of the request."""

    predictions: list[Prediction]


class Problem(BaseModel):
    """Why a request was refused."""

    error: str = Field(description="what was found, what was expected, what to do")
    code: str = Field(description="the same as a fixed code, for programs", examples=["too_large"])


class PolicyIn(BaseModel):
    """A change of policy: θ by hand, or an operating point of the bundle by name."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"thetas": [0.9]}]})

    thetas: list[Annotated[float, Field(strict=True)]] | None = None
    operating_point: str | None = None


class AccessOut(BaseModel):
    """Whose key it is, null where nobody needs one, and what it may do."""

    name: str | None
    rights: list[Literal["ask", "watch", "change"]]


class PolicyOut(BaseModel):
    """The policy in force."""

    thetas: list[float] = Field(description="θ of every exit but the last, which always answers")
    operating_point: str | None = Field(description="null when θ were set by hand")
    operating_points: list[str] = Field(description="names of the bundle's operating points")
    outlives_restart: bool = Field(
        description="whether a change survives a restart of the node; it does with EDGE_POLICY_FILE"
    )


class Behind(BaseModel):
    """The tier behind the upstream, or the nearest that does not answer, as the upstream reports it."""

    target: str
    up: bool
    reason: str | None


class Upstream(BaseModel):
    """The next tier, as this node sees it."""

    target: str
    up: bool
    reason: str | None
    behind: Behind | None = Field(
        default=None, description="null if there is none, or while the upstream itself is down"
    )


class Readiness(BaseModel):
    """Whether the node can answer, and how well; a caller without the right to watch learns only whether."""

    ready: bool
    reason: str | None = Field(default=None, description="why it is not ready")
    bundle: str | None = None
    upstream: Upstream | None = None
