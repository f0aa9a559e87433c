"""What a recipe says: which images a network takes and how it is trained, and how to build the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator

from offramp.authoring.networks.early_exit import EarlyExitNetwork
from offramp.bundle.manifest import Preprocessing
from offramp.bundle.task import SINGLE_LABEL, Task
from offramp.record import Record

Optimizer = Literal["sgd", "adamw"]
Schedule = Literal["one_cycle", "cosine"]
Keep = Literal["last", "best"]
ClassWeights = Literal["equal", "balanced"]
_MOST_HELD_OUT = 5000
Share = Annotated[float, Field(gt=0, le=1)]


class Augmentation(Record):
    """Random changes of the training images; every image is changed in another way each time.

    crop: cut out a part with an area within this range of shares, such as (0.35, 1.0), and resize it to the whole.
    rand_augment: number and magnitude, 0 to 30, of RandAugment's operations, such as (2, 9); eight images share a draw.
    colour: change brightness, contrast and saturation by up to this share.
    shift: move by up to this many pixels. mirror: swap left and right, for every second image.
    blank: side of a blanked square, in pixels.
    mixup: α of the Beta distribution of the shares in which two images, and their labels, are mixed.
    """

    crop: tuple[Share, Share] | None = None
    rand_augment: tuple[Annotated[int, Field(ge=1, le=15)], Annotated[float, Field(gt=0, lt=30)]] | None = (
        None
    )
    colour: float = Field(default=0.0, ge=0, le=1)
    shift: int = Field(default=0, ge=0)
    mirror: bool = False
    blank: int = Field(default=0, ge=0)
    mixup: float = Field(default=0.0, ge=0)

    @field_validator("crop")
    @classmethod
    def _check_order(cls, crop: tuple[float, float] | None) -> tuple[float, float] | None:
        if crop is not None and crop[0] > crop[1]:
            raise ValueError(f"the smallest share, {crop[0]}, is above the largest, {crop[1]}")
        return crop


class RecipeValues(Record):
    """Everything a recipe says, except how to build the network; a run keeps a copy in its `run.json`.

    task: what the network is asked about a photo. exit_weights: of the exits' losses, shallow to deep.
    batch_size: images in a batch. accumulate: batches whose gradients make one step.
    learning_rate: the highest. schedule: one_cycle rises and falls; cosine falls after a warm-up.
    warmup: epochs in which the rate rises; unless given, a fifth of them for one_cycle and none for cosine.
    weight_decay: of weights; biases and normalisation have none.
    backbone_rate: learning rate of the backbone's last block, as a share of that of the EECs.
    layer_decay: the rate of each block as a share of that of the block after it.
    frozen_blocks: so many of the first blocks stay as they are; the largest features are there, so it saves much time
    and memory.
    clip: longest gradient of a step; unless given, gradients are not clipped.
    ema: decay of the moving average of the weights, such as 0.999; the average is validated and saved.
    keep: which epoch's weights the run ends with. best: those with the highest accuracy, averaged over the exits that
    learn, on the half of the held-out images that proposes thresholds; the half that tests them plays no part.
    patience: stop after this many epochs without a higher accuracy; measured in the same way.
    self_distillation: share of the deepest exit's softened answer in the loss of the others.
    label_smoothing: share of the target that is spread over all classes.
    class_weights: balanced gives every class the same weight in the loss, however many images it has.
    validation: images held out to choose thresholds on; unless given, a fifth of them, at most 5,000.
    is_trained: whether the recipe builds a backbone that is trained already, such as a model of yours after
    `attach_exits`; if so, `--regime distill` needs no `--start`. backbone_labels: of a backbone's own
    classes, in its order.
    """

    preprocessing: Preprocessing
    task: Task = SINGLE_LABEL
    backbone_labels: tuple[str, ...] | None = Field(default=None, min_length=2)
    exit_weights: tuple[float, ...]
    epochs: int = Field(default=60, ge=1)
    batch_size: int = Field(default=128, ge=1)
    accumulate: int = Field(default=1, ge=1)
    optimizer: Optimizer = "sgd"
    learning_rate: float = Field(default=0.1, gt=0)
    schedule: Schedule = "one_cycle"
    warmup: float | None = Field(default=None, ge=0)
    weight_decay: float = Field(default=5e-4, ge=0)
    backbone_rate: float = Field(default=1.0, gt=0)
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    frozen_blocks: int = Field(default=0, ge=0)
    clip: float | None = Field(default=None, gt=0)
    ema: float | None = Field(default=None, gt=0, lt=1)
    keep: Keep = "last"
    patience: int | None = Field(default=None, ge=1)
    self_distillation: float = Field(default=0.0, ge=0, le=1)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    class_weights: ClassWeights = "equal"
    augmentation: Augmentation = Augmentation()
    split_point: int = 2
    validation: int | None = Field(default=None, ge=1)
    is_trained: bool = False

    def held_out_of(self, count: int) -> int:
        """How many of so many training images are held out."""
        return self.validation or max(1, min(_MOST_HELD_OUT, count // 5))

    def changed(self, **changes: Any) -> Self:
        """The same, but with these values.

        Raises:
            pydantic.ValidationError: a value is not allowed, or there is no field of that name.
        """
        return type(self)(**{**dict(self), **changes})


class Recipe(RecipeValues):
    """Everything that `offramp train` needs besides the data.

    build: number of classes (2 for a regression) -> the network, with random weights or, if `is_trained`, with a
    trained backbone.
    """

    build: Callable[[int], EarlyExitNetwork] = Field(exclude=True)

    @property
    def values(self) -> RecipeValues:
        """What a run keeps of this recipe."""
        return RecipeValues(**{name: value for name, value in self if name != "build"})
