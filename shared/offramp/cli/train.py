"""`train`: trains a network on images, which makes a run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError
from pydantic_settings import CliPositionalArg

from offramp.authoring.data import LabelledImages, load_images, load_unlabelled
from offramp.bundle.provenance import Data, Provenance, Split
from offramp.cli.options import SkipOption
from offramp.cli.progress import console
from offramp.command import Command
from offramp.errors import ConfigError

if TYPE_CHECKING:
    from offramp.authoring.networks.recipe import RecipeValues
    from offramp.authoring.training.run import Run


class Train(Command):
    """Train an early-exit network.

    Needs the extra `train`. If the recipe does not exist, the error lists those that do.

    Example: offramp train b-lenet-mnist --data data/mnist --out runs/b-lenet-mnist
    """

    recipe: CliPositionalArg[str] = Field(
        description="name of a recipe, such as b-lenet-mnist, or module:NAME for your own"
    )
    data: Path = Field(description="directory of IDX files, an image folder, or the zip of one")
    out: Path = Field(description="directory of the run: its settings, checkpoints and log")
    labels: str | None = Field(
        default=None, description="names of the classes, such as a,b,c; IDX files have only numbers"
    )
    epochs: int | None = Field(default=None, ge=1, description="passes over the data (default: the recipe's)")
    validation: int | None = Field(
        default=None, ge=1, description="samples held out to choose thresholds on (default: the recipe's)"
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
    views: int | None = Field(
        default=None,
        ge=0,
        description="with a frozen backbone: compute the features of this many versions of each photo once, before the "
        "first epoch. 1 is the photo as it is, more are augmented; 0 augments and computes anew in each epoch "
        "(default: 1 for `exits`, else 0)",
    )
    features: Path | None = Field(
        default=None,
        description="keep these features in this directory, for other trainings on the same backbone and photos "
        "(default: remove them at the end); implies --views 1",
    )
    exit_weights: str | None = Field(
        default=None, description="weight of each exit's loss, w1,w2,… (default: the recipe's)"
    )
    final_exit_weights: str | None = Field(
        default=None, description="weights in the last epoch; they shift there evenly (default: no shift)"
    )
    learning_rate: float | None = Field(
        default=None, gt=0, description="highest learning rate (default: the recipe's)"
    )
    devices: int = Field(
        default=1, ge=1, description="processes on this machine, or GPUs; they share each batch"
    )
    nodes: int = Field(
        default=1, ge=1, description="machines; start the command on each, with torchrun or Slurm"
    )
    unlabelled: bool = Field(
        default=False,
        description="use every photo below --data, whatever its folder; for distill with --alpha 1",
    )
    skip_unreadable: SkipOption = False
    seed: int = Field(default=0, description="seed for weights, order, augmentation and split")
    resume: bool = Field(default=False, description="continue from the run's last checkpoint")

    def execute(self) -> None:
        """Train, with a progress bar, and print what to do next."""
        from offramp.authoring.networks.recipes import recipe_named
        from offramp.authoring.training.train import Machines, train

        named = recipe_named(self.recipe).values
        plan = changed(named, **self._changes(exits=len(named.exit_weights)))
        images, names = self._images(plan)
        run = run_of(
            labels=names,
            provenance=self._provenance(plan, images),
            recipe=plan,
            regime=self.regime,
            final_exit_weights=_weights(
                "--final-exit-weights", self.final_exit_weights, len(plan.exit_weights)
            ),
            start=self.start and str(self.start),
            teacher=self.teacher and str(self.teacher),
            alpha=self.alpha,
            temperature=self.temperature,
            frozen=not self.unfrozen,
            views=1 if self.features and self.views is None else self.views,
        )
        origin = run.provenance
        console.print(
            f"recipe {self.recipe}: {origin.epochs} epochs, {origin.data.split.validation} of {len(images)} samples "
            "held out",
            highlight=False,
        )
        machines = Machines(self.devices, self.nodes)
        train(images, run, self.out, resume=self.resume, machines=machines, features=self.features)
        console.print("trained; next:", f"offramp export {self.out} --out DIR", sep="\n", soft_wrap=True)

    def _changes(self, *, exits: int) -> dict[str, Any]:
        """What the options change in the recipe."""
        return {
            "epochs": self.epochs,
            "validation": self.validation,
            "learning_rate": self.learning_rate,
            "exit_weights": _weights("--exit-weights", self.exit_weights, exits),
        }

    def _images(self, plan: RecipeValues) -> tuple[LabelledImages, tuple[str, ...]]:
        """The training part, and the names of its classes."""
        if self.unlabelled:
            names = _taught_labels(self.regime, self.alpha, self.start)
            return load_unlabelled(self.data, plan.preprocessing, skip_unreadable=self.skip_unreadable), names
        images = load_images(self.data, "train", plan.preprocessing, skip_unreadable=self.skip_unreadable)
        return images, _labels(self.labels, images)

    def _provenance(self, plan: RecipeValues, images: LabelledImages) -> Provenance:
        from offramp.authoring.training.run import library_versions

        return Provenance(
            commands=(self.as_typed,),
            recipe=self.recipe,
            seed=self.seed,
            epochs=plan.epochs,
            data=Data(
                name=self.data.name,
                samples=len(images),
                fingerprint=images.fingerprint(),
                split=Split(seed=self.seed, validation=plan.validation),
                labelled=not self.unlabelled,
            ),
            versions=library_versions(),
        )


def changed(recipe: RecipeValues, **changes: Any) -> RecipeValues:
    """The recipe with those changes that are not None; an error names the option of a wrong value.

    Raises:
        ConfigError: a value is not allowed.
    """
    try:
        return recipe.changed(**{name: value for name, value in changes.items() if value is not None})
    except ValidationError as error:
        raise _about_option(error) from error


def run_of(**settings: Any) -> Run:
    """A run with these settings; an error names the option of a wrong setting.

    Raises:
        ConfigError: a setting is not valid for a run.
    """
    from offramp.authoring.training.run import Run

    try:
        return Run(**settings)
    except ValidationError as error:
        raise _about_option(error) from error


def _about_option(error: ValidationError) -> ConfigError:
    first = error.errors()[0]
    option = "--" + str(first["loc"][0]).replace("_", "-")
    return ConfigError(f"{option} is {first['input']!r}: {first['msg'].removeprefix('Input ')}")


def _labels(given: str | None, images: LabelledImages) -> tuple[str, ...]:
    if given:
        names = tuple(name.strip() for name in given.split(","))
        if len(set(names)) != len(names) or not all(names):
            raise ConfigError(f"--labels '{given}' repeats a name or leaves one empty; write each class once")
        if images.labels and names != images.labels:
            raise ConfigError(
                f"--labels differ from the folders' names {', '.join(images.labels)}; leave the option out"
            )
        return names
    return images.labels or tuple(str(number) for number in range(int(images.classes.max()) + 1))


def _taught_labels(regime: str, alpha: float, start: Path | None) -> tuple[str, ...]:
    from offramp.authoring.training.run import load_run

    if regime != "distill" or alpha < 1 or start is None:
        raise ConfigError(
            "photos without labels need a teacher to learn from; give --regime distill --alpha 1 --start RUN"
        )
    return load_run(start).labels


def _weights(option: str, given: str | None, count: int) -> tuple[float, ...] | None:
    if given is None:
        return None
    try:
        weights = tuple(float(text) for text in given.split(","))
    except ValueError:
        weights = ()
    if len(weights) != count or not all(math.isfinite(w) and w >= 0 for w in weights) or not any(weights):
        raise ConfigError(
            f"{option} is '{given}'; write {count} numbers from 0 up, such as {','.join(['1'] * count)}"
        )
    return weights
