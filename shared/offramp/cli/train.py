"""`train`: trains a network on images, which makes a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from offramp.authoring.data import LabelledImages
from offramp.bundle.provenance import CalibrationPart, Data, Provenance, Split
from offramp.cli.options import views_of
from offramp.cli.progress import console, log_unless_terminal, warn
from offramp.cli.reading import Reading
from offramp.cli.train_options import TrainOptions, weights_from
from offramp.cli.training_data import Wanted, find_calibration, has_seen, recorded, relabelled
from offramp.errors import ConfigError

if TYPE_CHECKING:
    from offramp.authoring.recipes.recipe import RecipeValues
    from offramp.authoring.training.run import Run


class Train(TrainOptions):
    """Train an early-exit network.

    Needs the extra `train`. If the recipe does not exist, the error lists those that do.

    Example: offramp train b-lenet-mnist --data data/mnist --out runs/b-lenet-mnist
    """

    def execute(self) -> None:
        """Train, showing the progress, and print what to do next."""
        from offramp.authoring.recipes.named import recipe_named
        from offramp.authoring.training.check import check_task
        from offramp.authoring.training.train import Machines, train

        with naming_options():
            plan = self.changed(recipe_named(self.recipe).values)
        check_task(plan)
        self._check_unlabelled(plan)
        images, names = self._images(plan)
        calibration, part = self._calibration(plan, images, names)
        run = self._run(plan, names, self._provenance(plan, images, part))
        self._announce(run.provenance)
        log_unless_terminal()
        machines = Machines(self.devices, self.nodes, self.workers, self.compile)
        train(
            relabelled(images, names),
            run,
            self.out,
            calibration=calibration,
            resume=self.resume,
            machines=machines,
            features=self.features,
        )
        console.print("trained; next:", f"offramp export {self.out} --out DIR", sep="\n", soft_wrap=True)

    def _run(self, plan: RecipeValues, names: tuple[str, ...], provenance: Provenance) -> Run:
        return run_of(
            labels=names,
            provenance=provenance,
            recipe=plan,
            regime=self.regime,
            final_exit_weights=self.final_exit_weights
            and weights_from("--final-exit-weights", self.final_exit_weights, len(plan.exit_weights)),
            start=self.start and str(self.start),
            teacher=self.teacher and str(self.teacher),
            alpha=self.alpha,
            temperature=self.temperature,
            frozen=not self.unfrozen,
            views=views_of(self.views, self.features),
        )

    def _images(self, plan: RecipeValues) -> tuple[LabelledImages, tuple[str, ...]]:
        """The training part, and the names of its classes."""
        if self.unlabelled:
            names = _taught_labels(self.regime, self.alpha, self.start)
            return self._reading(plan).unlabelled(self.data, plan.preprocessing), names
        images = self._reading(plan).part(self.data, "train", plan.preprocessing)
        if plan.task.kind == "regression":
            return images, ()
        return images, _labels(self.labels, images, plan.backbone_labels)

    def _calibration(
        self, plan: RecipeValues, images: LabelledImages, names: tuple[str, ...]
    ) -> tuple[LabelledImages, CalibrationPart] | tuple[None, None]:
        """The photos to choose thresholds on and what is recorded of them, if they are a part of their own."""
        wanted = Wanted(self.data, self.calibration, self.validation, self.unlabelled, self._reading(plan))
        found = find_calibration(wanted, plan.preprocessing, is_trained=plan.is_trained)
        if found is None:
            return None, None
        return relabelled(found.images, names), recorded(found, images)

    def _announce(self, origin: Provenance) -> None:
        """Say what is about to be trained, and warn if thresholds would be chosen on samples that it has seen."""
        from offramp.authoring.training.run import load_run

        data, part = origin.data, origin.data.calibration
        held_out = f"{part.samples} samples of {part.name}" if part else f"{data.held_out} of them"
        console.print(
            f"recipe {self.recipe}: {origin.epochs} epochs, {data.samples} samples, {held_out} held out",
            highlight=False,
            soft_wrap=True,
        )
        if self.start is not None and has_seen(load_run(self.start).provenance.data, data):
            warn(
                f"{self.start} was trained on some of the samples that are held out now, so thresholds chosen on them "
                "are too low; hold out the same ones, with its --seed and no more than its --validation"
            )

    def _reading(self, plan: RecipeValues) -> Reading:
        return Reading(self.skip_unreadable, self.cache_mb, plan.task.kind)

    def _check_unlabelled(self, plan: RecipeValues) -> None:
        if self.unlabelled and plan.task.kind != "single_label":
            raise ConfigError(
                f"--unlabelled is for the task single_label, not for {plan.task.kind}; describe the photos in a "
                "labels.csv"
            )
        if self.labels and plan.task.kind == "regression":
            raise ConfigError("a regression has no labels; leave --labels out")

    def _provenance(
        self, plan: RecipeValues, images: LabelledImages, calibration: CalibrationPart | None
    ) -> Provenance:
        from offramp.authoring.recipes.attached import commands_behind
        from offramp.authoring.training.run import library_versions

        return Provenance(
            commands=(*commands_behind(self.recipe), self.as_typed),
            recipe=self.recipe,
            seed=self.seed,
            epochs=plan.epochs,
            data=Data(
                name=self.data.name,
                samples=len(images),
                fingerprint=images.fingerprint(),
                split=None
                if calibration
                else Split(seed=self.seed, validation=plan.held_out_of(len(images))),
                calibration=calibration,
                labelled=not self.unlabelled,
            ),
            versions=library_versions(),
        )


def run_of(**settings: Any) -> Run:
    """A run with these settings; an error names the option of a wrong setting.

    Raises:
        ConfigError: a setting is not valid for a run.
    """
    from offramp.authoring.training.run import Run

    with naming_options():
        return Run(**settings)


@contextmanager
def naming_options() -> Iterator[None]:
    """Turn a value that a record refuses into an error that names the option.

    Raises:
        ConfigError: a value is not allowed.
    """
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + str(first["loc"][0]).replace("_", "-")
        message = first["msg"].removeprefix("Input ").removeprefix("Value error, ")
        raise ConfigError(f"{option} is {first['input']!r}: {message}") from error


def _labels(given: str | None, images: LabelledImages, of_model: tuple[str, ...] | None) -> tuple[str, ...]:
    if of_model:
        if given:
            raise ConfigError(f"the recipe names the classes, {', '.join(of_model)}; leave --labels out")
        return of_model
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
