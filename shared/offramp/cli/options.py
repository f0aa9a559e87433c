"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import CliPositionalArg

from offramp.bundle import Manifest
from offramp.bundle.manifest import Payload
from offramp.engine.runtime import Runtime
from offramp.engine.tier import checked_thetas
from offramp.errors import ConfigError

BundleArgument = Annotated[CliPositionalArg[Path], Field(description="directory of the bundle")]
RunArgument = Annotated[
    CliPositionalArg[Path], Field(description="directory of a run made by `offramp train`")
]
RuntimeOption = Annotated[Runtime, Field(description="library that runs the blocks")]
SkipOption = Annotated[
    bool, Field(description="skip files that cannot be read, and classes that have no others")
]
CacheOption = Annotated[
    int,
    Field(
        ge=0,
        description="most megabytes of decoded photos to keep in a temporary file; the others are decoded again "
        "whenever they are needed",
    ),
]
WorkersOption = Annotated[
    int | None,
    Field(
        ge=0,
        description="processes that decode photos for training (default: none if they all fit into --cache-mb, or else "
        "one less than there are cores, at most 8)",
    ),
]
ViewsOption = Annotated[
    int | None,
    Field(
        ge=0,
        description="with frozen blocks in front: compute the features of this many versions of each photo once, "
        "before the first epoch. 1 is the photo as it is, more are augmented; 0 augments and computes anew in each "
        "epoch (default: 1 for the regime exits, else 0)",
    ),
]
FeaturesOption = Annotated[
    Path | None,
    Field(
        description="keep these features in this directory, for other trainings on the same blocks and photos "
        "(default: remove them at the end); implies --views 1"
    ),
]
TrainedOnOption = Annotated[Path, Field(description="the data the network was trained on")]
CalibrationOption = Annotated[
    Path | None,
    Field(description="the photos that thresholds are chosen on, if they are not part of --data"),
]
PointOption = Annotated[str | None, Field(description="operating point (default: the bundle's own)")]
PayloadOption = Annotated[
    Payload | None,
    Field(
        description="what an offloaded sample travels as. exact: the smallest of its feature, the photo as it came and "
        "the network's picture without loss, which all give the same answer. feature: never a picture. jpeg-N, webp-N: "
        "the network's picture with quality N, 1 to 100 (default: the bundle's)"
    ),
]
ThetasOption = Annotated[
    str | None, Field(description="θ by hand instead: one for each exit but the last, such as 0.9,0.8")
]


def views_of(views: int | None, features: Path | None) -> int | None:
    """The run's number of cached views: who keeps features wants at least one."""
    return 1 if views is None and features is not None else views


def chosen_thetas(
    manifest: Manifest, point: str | None, thetas: str | None
) -> tuple[str | None, tuple[float, ...]]:
    """The operating point's name (None if θ were given by hand) and its θ.

    Raises:
        ConfigError: both are given, the bundle has no such point, or the θ do not fit the bundle.
    """
    if thetas is not None and point is not None:
        raise ConfigError("--point and --thetas exclude each other; give one of them")
    if thetas is not None:
        try:
            values = [float(text) for text in thetas.split(",") if text.strip()]
        except ValueError as error:
            raise ConfigError(
                f"--thetas is '{thetas}'; write numbers from 0 to 1, such as 0.9,0.8"
            ) from error
        return None, checked_thetas(values, manifest)
    name = point or manifest.default_operating_point
    try:
        return name, manifest.point_named(name).thetas
    except KeyError as error:
        names = ", ".join(p.name for p in manifest.operating_points)
        raise ConfigError(f"no operating point '{name}'; the bundle has {names}") from error
