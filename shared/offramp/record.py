"""The base class of every record that Offramp reads from a file or a setting."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Immutable; refuses fields that this version does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")
