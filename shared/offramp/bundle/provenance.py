"""What made a bundle: the commands, the recipe, and the data with its fixed split."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from offramp.record import Record

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Split(Record):
    """How the training part of a data set was divided: the seed and the number of held-out samples."""

    seed: int
    validation: int = Field(ge=1)


class Data(Record):
    """The data a bundle was made from, so that calibration can check that it got the same."""

    name: str
    samples: int = Field(ge=1, description="samples in the training part, including validation")
    fingerprint: Sha256
    split: Split
    labelled: bool = Field(
        default=True, description="false: photos without classes, labelled by a trained backbone"
    )


class Provenance(Record):
    """What made this bundle."""

    commands: tuple[str, ...] = Field(description="in the order they were run")
    recipe: str
    seed: int
    epochs: int
    data: Data
    versions: dict[str, str]
