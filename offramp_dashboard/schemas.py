"""The parts of an edge node's answers that the dashboard reads; other fields are ignored."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Access(BaseModel):
    """Whose key it is, None where nobody needs one, and what it may do."""

    name: str | None
    rights: frozenset[str]


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
    upstream: Upstream | None = None


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
    unfamiliar: bool | None = Field(default=None, description="none without a guard")
    degraded: bool
    degraded_reason: str | None
    timings_ms: Timings
    sent: str
    uplink_bytes: int = Field(ge=0)
    upstream_ms: tuple[UpstreamTime, ...] = ()
    probabilities: dict[str, Share] = Field(default={}, description="none for a quantity")

    @model_validator(mode="before")
    @classmethod
    def _in_words(cls, answer: Any) -> Any:
        """Labels, or a value with its deviation, become one text in place of the label."""
        if not isinstance(answer, dict):
            return answer
        try:
            if "labels" in answer:
                given = "; ".join(str(one["label"]) for one in answer["labels"])
                return {**answer, "label": given or "no label"}
            if "value" in answer:
                said = f"{answer['quantity']} {answer['value']:.4g} ± {answer['std']:.2g} {answer['unit']}"
                return {**answer, "label": said.rstrip()}
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"labels or a value as no edge node gives them: {error!r}") from error
        return answer

    def names(self, label: str) -> bool:
        """Whether this label is the answer, or one of several."""
        return label == self.label or label in self.label.split("; ")
