"""Settings of the dashboard, from `DASHBOARD_*` or the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import httpx
from pydantic import AfterValidator, Field, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from offramp.serving.settings import Settings


def _address(text: str) -> str:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in {"http", "https"} or not url.host or url.query or url.fragment:
        raise ValueError(f"'{text}' is no address; write http://HOST:PORT")
    return text.rstrip("/")


_Addresses = Annotated[tuple[Annotated[str, AfterValidator(_address)], ...], NoDecode]


class DashboardSettings(Settings):
    """One dashboard; the nodes it looks at, several of them in a variable with commas between."""

    model_config = SettingsConfigDict(env_prefix="DASHBOARD_", frozen=True, extra="forbid")

    edge: _Addresses = Field(default=("http://127.0.0.1:8000",), min_length=1, max_length=32)
    # Where cloud nodes have their /metrics.
    cloud: _Addresses = Field(default=(), max_length=32)
    host: str = Field(default="127.0.0.1", min_length=1)
    port: int = Field(default=8080, ge=0, le=65535)
    samples: Path = Path("samples/fashion-mnist")

    @field_validator("edge", "cloud", mode="before")
    @classmethod
    def _listed(cls, given: Any) -> Any:
        addresses = [part.strip() for part in given.split(",")] if isinstance(given, str) else given
        return tuple(dict.fromkeys(addresses))
