"""What made a bundle: the commands, the recipe, and the data with its fixed split."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from offramp.record import Record

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Split(Record):
    """How the training part of a data set was divided: the seed and the number of held-out samples."""

    seed: int
    validation: int = Field(ge=1)


class CalibrationPart(Record):
    """Samples of their own to choose thresholds on, which no training has seen."""

    name: str
    samples: int = Field(ge=1)
    fingerprint: Sha256


class Data(Record):
    """The data a bundle was made from, so that calibration can check that it got the same.

    Thresholds are chosen either on samples that were held out of the training part (`split`) or on a part of their own
    (`calibration`).
    """

    name: str
    samples: int = Field(ge=1, description="samples in the training part, including those held out of it")
    fingerprint: Sha256
    split: Split | None = None
    calibration: CalibrationPart | None = None
    labelled: bool = Field(
        default=True, description="false: photos without classes, labelled by a trained backbone"
    )

    @property
    def held_out(self) -> int:
        """How many samples thresholds are chosen on."""
        return self.split.validation if self.split else self.calibration.samples if self.calibration else 0

    @property
    def trained_on(self) -> int:
        """How many samples are left to train on."""
        return self.samples - (self.split.validation if self.split else 0)

    @model_validator(mode="after")
    def _check_one_part(self) -> Self:
        if (self.split is None) == (self.calibration is None):
            raise ValueError("expected either a split or a part for calibration")
        return self


class Provenance(Record):
    """What made this bundle."""

    commands: tuple[str, ...] = Field(description="in the order they were run")
    recipe: str
    seed: int
    epochs: int
    data: Data
    versions: dict[str, str]
