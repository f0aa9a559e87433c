"""The dashboard's settings: from the command line, `DASHBOARD_*` variables or a TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import httpx
from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import NoDecode, SettingsConfigDict

from offramp.command import separated
from offramp.serving.access.settings import DoorSettings
from offramp.serving.listening import Host


def _address(text: str) -> str:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in {"http", "https"} or not url.host or url.query or url.fragment:
        raise ValueError(f"'{text}' is not an address; write http://HOST:PORT")
    return text.rstrip("/")


_Addresses = Annotated[
    tuple[Annotated[str, AfterValidator(_address)], ...], NoDecode, BeforeValidator(separated)
]


class DashboardSettings(DoorSettings):
    """Settings of one dashboard."""

    model_config = SettingsConfigDict(env_prefix="DASHBOARD_")

    config: Path | None = Field(default=None, description="TOML file with settings, as in port = 8080")
    edge: _Addresses = Field(
        default=("http://127.0.0.1:8000",),
        min_length=1,
        max_length=32,
        description="address of an edge node; for several, repeat the option or separate them by commas",
    )
    cloud: _Addresses = Field(
        default=(),
        max_length=32,
        description="address of a cloud node's /metrics, on its --metrics-port; several as with --edge",
    )
    host: Host = Field(
        default="127.0.0.1", description="address to listen on; :: is every one, of both IP versions"
    )
    port: int = Field(default=8080, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    key_file: Path | None = Field(
        default=None,
        description="file with the API key to watch nodes with; whoever looks at the page signs in with their own key, "
        "and asks and changes with that one",
    )
    ca: Path | None = Field(
        default=None,
        description="authority, in PEM, that has to have signed the certificates of the nodes (default: the system's)",
    )
    session_hours: float = Field(
        default=8.0, gt=0, le=720, description="how long somebody who has signed in stays signed in"
    )
    samples: Path = Field(
        default=Path("samples/fashion-mnist"),
        description="sample photos to try, one folder per class; need not exist",
    )
