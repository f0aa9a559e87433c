"""Options that several commands have, and what they have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import CliPositionalArg

from offramp.bundle import Manifest
from offramp.engine.runtime import Runtime
from offramp.engine.tier import checked_thetas
from offramp.errors import ConfigError

BundleArgument = Annotated[CliPositionalArg[Path], Field(description="directory of the bundle")]
RunArgument = Annotated[
    CliPositionalArg[Path], Field(description="directory of a run made by `offramp train`")
]
RuntimeOption = Annotated[Runtime, Field(description="what runs the blocks")]
SkipOption = Annotated[bool, Field(description="go on without files that cannot be read")]
PointOption = Annotated[str | None, Field(description="operating point (default: the bundle's own)")]
ThetasOption = Annotated[
    str | None, Field(description="θ by hand instead, one per exit but the last, as in 0.9,0.8")
]


def chosen_thetas(
    manifest: Manifest, point: str | None, thetas: str | None
) -> tuple[str | None, tuple[float, ...]]:
    """The operating point's name, None if θ were given by hand, and its θ.

    Raises:
        ConfigError: both are given, or the bundle has no such point, or no use for such θ.
    """
    if thetas is not None and point is not None:
        raise ConfigError("--point and --thetas exclude each other; give one of them")
    if thetas is not None:
        try:
            values = [float(text) for text in thetas.split(",") if text.strip()]
        except ValueError as error:
            raise ConfigError(f"--thetas is '{thetas}'; write numbers from 0 to 1, as in 0.9,0.8") from error
        return None, checked_thetas(values, manifest)
    name = point or manifest.default_operating_point
    try:
        return name, manifest.point_named(name).thetas
    except KeyError as error:
        names = ", ".join(p.name for p in manifest.operating_points)
        raise ConfigError(f"no operating point '{name}'; the bundle has {names}") from error
