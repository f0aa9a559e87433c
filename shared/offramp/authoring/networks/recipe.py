"""What a recipe says: which images a network takes and how it is trained, and how to build the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from pydantic import Field

from offramp.authoring.networks.early_exit import EarlyExitNetwork
from offramp.bundle.manifest import Preprocessing
from offramp.record import Record


class Augmentation(Record):
    """Random changes of a training image: shift by up to `shift` pixels, mirror, blank a square."""

    shift: int = Field(default=0, ge=0)
    mirror: bool = False
    blank: int = Field(default=0, ge=0)


class RecipeValues(Record):
    """Everything a recipe says, except how to build the network; a run keeps a copy in its `run.json`.

    is_trained: whether the recipe builds a backbone that is trained already, such as a model of yours after
    `attach_exits`; if so, `--regime distill` needs no `--start`.
    """

    preprocessing: Preprocessing
    exit_weights: tuple[float, ...]
    epochs: int = Field(default=60, ge=1)
    batch_size: int = Field(default=128, ge=1)
    learning_rate: float = Field(default=0.1, gt=0)
    weight_decay: float = Field(default=5e-4, ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    augmentation: Augmentation = Augmentation()
    split_point: int = 2
    validation: int = Field(default=5000, ge=1)
    is_trained: bool = False

    def changed(self, **changes: Any) -> Self:
        """The same, but with these values.

        Raises:
            pydantic.ValidationError: a value is not allowed, or there is no field of that name.
        """
        return type(self)(**{**dict(self), **changes})


class Recipe(RecipeValues):
    """Everything that `offramp train` needs besides the data.

    build: number of classes -> the network, with random weights or, if `is_trained`, with a trained backbone.
    """

    build: Callable[[int], EarlyExitNetwork] = Field(exclude=True)

    @property
    def values(self) -> RecipeValues:
        """What a run keeps of this recipe."""
        return RecipeValues(**{name: value for name, value in self if name != "build"})
