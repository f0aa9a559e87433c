"""What a network is asked about a photo: which one label, which labels, or how much of a quantity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from offramp.record import Record

# least_sure is for multi_label, within_tolerance for regression, the others for single_label.
Measure = Literal[
    "max_softmax", "score_margin", "entropy", "learned", "failure", "least_sure", "within_tolerance"
]
Kind = Literal["single_label", "multi_label", "regression"]
LEAST_PROBABILITY = 0.5  # from which on a label is given
LEAST_STD = 0.005  # of a value, in units of the half range; an error far beyond it would end the training
_Number = Annotated[float, Field(allow_inf_nan=False)]
_NAME = r"^[^,]{1,80}$"


class Quantity(Record):
    """What a regression estimates.

    unit: for people; may be empty. low, high: the range its true values lie in, which also scales the training.
    tolerance: an answer that is off by at most this much counts as right.
    """

    name: Annotated[str, Field(pattern=_NAME)]
    unit: Annotated[str, Field(max_length=40)] = ""
    low: _Number
    high: _Number
    tolerance: Annotated[float, Field(gt=0, allow_inf_nan=False)]

    @property
    def middle(self) -> float:
        """Middle of the range."""
        return (self.low + self.high) / 2

    @property
    def half_range(self) -> float:
        """Half the width of the range: what a network computes in units of."""
        return (self.high - self.low) / 2

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        if not self.low < self.high:
            raise ValueError(
                f"the range of {self.name} goes from {self.low:g} to {self.high:g}; give low < high"
            )
        if self.tolerance >= self.high - self.low:
            raise ValueError(
                f"the tolerance of {self.name}, {self.tolerance:g}, is as wide as its range, so every answer would be "
                "right; give a smaller one"
            )
        return self


class Task(Record):
    """The kind of answer that every exit of a network gives.

    single_label: exactly one label; K probabilities that sum to 1. multi_label: any number of labels, none included; K
    probabilities, each by itself, and a label is given from 0.5 on. regression: a quantity; two numbers, the value and
    the standard deviation of its error.
    """

    kind: Kind = "single_label"
    quantity: Quantity | None = Field(default=None, description="only for a regression")

    def num_outputs(self, num_labels: int) -> int:
        """How many numbers an exit returns for one sample: one for each label, or the two of a regression."""
        return 2 if self.kind == "regression" else num_labels

    def check_fits(self, labels: Sequence[str], *, aggregates: bool = False) -> None:
        """Check that the task can have these labels, and a last exit that aggregates.

        Raises:
            ValueError: a regression has labels, or another task fewer than two; or several exits' answers cannot be
                aggregated.
        """
        if aggregates and self.kind != "single_label":
            raise ValueError(f"aggregates is for probabilities that sum to 1, not for {self.kind}")
        if self.kind == "regression" and labels:
            raise ValueError(f"a regression has no labels, got {len(labels)}")
        if self.kind != "regression" and len(labels) < 2:
            raise ValueError(f"{len(labels)} labels; a network tells at least two apart")

    @model_validator(mode="after")
    def _check_quantity(self) -> Self:
        if (self.kind == "regression") != (self.quantity is not None):
            raise ValueError("a regression needs a quantity, and no other task has one")
        return self


SINGLE_LABEL = Task()
