"""The options of `train`. Those that change the recipe have its fields' names, and no default of their own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from offramp.authoring.data.reading import CACHE_MB
from offramp.bundle.task import Kind
from offramp.cli.options import CacheOption, FeaturesOption, SkipOption, ViewsOption, WorkersOption
from offramp.cli.task_options import task_from
from offramp.command import Command
from offramp.errors import ConfigError

if TYPE_CHECKING:
    from offramp.authoring.recipes.recipe import RecipeValues

# Options with several numbers: how many, and an example.
_NUMBERS = {"crop": (2, "0.35,1"), "rand_augment": (2, "2,9")}


class TrainOptions(Command):
    """What `train` takes."""

    recipe: CliPositionalArg[str] = Field(
        description="name of a recipe, such as b-lenet-mnist, or module:NAME for your own"
    )
    data: Path = Field(description="directory of IDX files, an image folder, or a zip or tar of one")
    out: Path = Field(description="directory of the run: its settings, checkpoints and log")
    task: Kind | None = Field(
        default=None,
        description="single_label: every photo shows one class. multi_label: any number of labels. regression: a "
        "number, see --quantity. The last two need a labels.csv beside the photos (default: the recipe's)",
    )
    quantity: str | None = Field(
        default=None,
        description="regression: name, unit, lowest and highest value, and by how much a right answer may be off, such "
        "as angle,degrees,-45,45,5",
    )
    labels: str | None = Field(
        default=None, description="names of the classes, such as a,b,c; IDX files have only numbers"
    )
    epochs: int | None = Field(default=None, description="passes over the data (default: the recipe's)")
    validation: int | None = Field(
        default=None,
        description="samples held out of the training part to choose thresholds on (default: the recipe's)",
    )
    calibration: Path | None = Field(
        default=None,
        description="photos to choose thresholds on instead, which neither this training nor that of the backbone has "
        "seen (default: the validation part of --data, if it has one)",
    )
    regime: str = Field(
        default="joint",
        description="joint: all exits at once. backbone: without the early exits. layer-wise: one exit after "
        "another, each frozen once it is trained. distill: the exits learn from a trained backbone. exits: all of "
        "them, the last one included, learn from labels on a frozen backbone",
    )
    start: Path | None = Field(
        default=None,
        description="run to start from; `joint` from a run of `backbone` is known as mixed training",
    )
    teacher: Path | None = Field(
        default=None, description="distill: run of any recipe, whose last exit teaches (default: --start)"
    )
    alpha: float = Field(
        default=0.5, ge=0, le=1, description="distill: the teacher's share of the loss; 1 needs no labels"
    )
    temperature: float = Field(
        default=4.0, gt=0, description="distill: temperature T that softens both the teacher and the student"
    )
    unfrozen: bool = Field(default=False, description="distill: train the backbone as well")
    views: ViewsOption = None
    features: FeaturesOption = None
    exit_weights: str | None = Field(
        default=None, description="weight of each exit's loss, w1,w2,… (default: the recipe's)"
    )
    final_exit_weights: str | None = Field(
        default=None, description="weights in the last epoch; they shift there evenly (default: no shift)"
    )
    batch_size: int | None = Field(default=None, description="images in a batch (default: the recipe's)")
    accumulate: int | None = Field(
        default=None, description="batches whose gradients make one step; for batches too large for memory"
    )
    optimizer: Literal["sgd", "adamw"] | None = Field(
        default=None,
        description="sgd: with momentum. adamw: needs a far smaller --learning-rate, such as 0.001",
    )
    learning_rate: float | None = Field(
        default=None, description="highest learning rate (default: the recipe's)"
    )
    schedule: Literal["one_cycle", "cosine"] | None = Field(
        default=None,
        description="one_cycle: the rate rises and falls. cosine: it falls, after the --warmup",
    )
    warmup: float | None = Field(
        default=None,
        description="epochs in which the rate rises (default: a fifth of them for one_cycle, none for cosine)",
    )
    weight_decay: float | None = Field(default=None, description="of weights; biases have none")
    backbone_rate: float | None = Field(
        default=None,
        description="learning rate of the backbone as a share of that of the exits' classifiers, such as 0.1 to "
        "fine-tune pretrained weights",
    )
    layer_decay: float | None = Field(
        default=None, description="rate of each block as a share of that of the block after it"
    )
    frozen_blocks: int | None = Field(
        default=None,
        description="so many of the backbone's first blocks stay as they are, which saves much time and memory",
    )
    clip: float | None = Field(default=None, description="longest gradient of a step")
    ema: float | None = Field(
        default=None,
        description="decay of a moving average of the weights, such as 0.999; the average is what is validated and "
        "exported",
    )
    keep: Literal["last", "best"] | None = Field(
        default=None,
        description="epoch whose weights are exported. best: the highest accuracy, averaged over the exits that learn, "
        "on the half of the held-out samples that proposes thresholds; accuracies measured on that half are a little "
        "too high then, but certificates use the other half and stay valid",
    )
    patience: int | None = Field(
        default=None,
        description="stop after this many epochs without a higher accuracy, measured as for --keep best",
    )
    self_distillation: float | None = Field(
        default=None,
        description="how much the early exits learn from the deepest one instead of the labels, 0 to 1 (default: the "
        "recipe's)",
    )
    label_smoothing: float | None = Field(
        default=None, description="share of each label that is spread over all classes"
    )
    class_weights: Literal["equal", "balanced"] | None = Field(
        default=None,
        description="balanced: every class has the same weight in the loss, however many images it has",
    )
    crop: str | None = Field(
        default=None,
        description="cut out a random part, with an area between these shares, and resize it; such as 0.35,1",
    )
    rand_augment: str | None = Field(
        default=None, description="number and magnitude (0 to 30) of RandAugment's operations, such as 2,9"
    )
    colour: float | None = Field(
        default=None, description="change brightness, contrast and saturation by up to this share"
    )
    shift: int | None = Field(default=None, description="move images by up to this many pixels")
    mirror: bool | None = Field(default=None, description="mirror every second image")
    blank: int | None = Field(default=None, description="side of a square to blank, in pixels")
    mixup: float | None = Field(
        default=None,
        description="mix pairs of images in shares from Beta(α, α), such as 0.2; not with --views",
    )
    devices: int = Field(
        default=1, ge=1, description="processes on this machine, or GPUs; they share each batch"
    )
    nodes: int = Field(
        default=1, ge=1, description="machines; start the command on each, with torchrun or Slurm"
    )
    compile: bool = Field(
        default=False,
        description="compile the network first, which takes a minute or more; for a small network on a GPU, whose "
        "steps are mostly launches. Needs a C++ compiler; not with --views or several --devices",
    )
    unlabelled: bool = Field(
        default=False,
        description="use every photo below --data, whatever its folder; for distill with --alpha 1",
    )
    skip_unreadable: SkipOption = False
    cache_mb: CacheOption = CACHE_MB
    workers: WorkersOption = None
    seed: int = Field(default=0, description="seed for weights, order, augmentation and split")
    resume: bool = Field(default=False, description="continue from the run's last checkpoint")

    def changed(self, recipe: RecipeValues) -> RecipeValues:
        """The recipe with the values that were given as options.

        Raises:
            pydantic.ValidationError: a value is not allowed.
            ConfigError: an option needs another number of values.
        """
        kind = type(recipe.augmentation)
        given = {
            name: value
            for name in (*kind.model_fields, *type(recipe).model_fields)
            if (value := getattr(self, name, None)) is not None
        }
        for name, (count, example) in _NUMBERS.items():
            if name in given:
                given[name] = _numbers_from(f"--{name.replace('_', '-')}", given[name], count, example)
        if self.exit_weights is not None:
            given["exit_weights"] = weights_from(
                "--exit-weights", self.exit_weights, len(recipe.exit_weights)
            )
        if self.task is not None or self.quantity is not None:
            given["task"] = task_from(self.task or "regression", self.quantity)
        images = {name: given.pop(name) for name in kind.model_fields if name in given}
        return recipe.changed(augmentation=kind(**{**dict(recipe.augmentation), **images}), **given)


def weights_from(option: str, given: str, count: int) -> tuple[float, ...]:
    """The weights of the exits, from text.

    Raises:
        ConfigError: they are not as many, or not all of them are numbers from 0 up.
    """
    weights = _floats(given)
    if len(weights) != count or not all(math.isfinite(w) and w >= 0 for w in weights) or not any(weights):
        raise ConfigError(
            f"{option} is '{given}'; write {count} numbers from 0 up, such as {','.join(['1'] * count)}"
        )
    return weights


def _numbers_from(option: str, given: str, count: int, example: str) -> tuple[float, ...]:
    numbers = _floats(given)
    if len(numbers) != count:
        raise ConfigError(f"{option} is '{given}'; write {count} numbers, such as {example}")
    return numbers


def _floats(given: str) -> tuple[float, ...]:
    try:
        return tuple(float(text) for text in given.split(","))
    except ValueError:
        return ()
