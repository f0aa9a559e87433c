"""`train`, `compress`: from images to a run."""

from __future__ import annotations

import math
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from offramp.authoring.data import LabelledImages, load_images, load_unlabelled
from offramp.bundle.manifest import Data, Provenance, Split
from offramp.cli.errors import told_in_one_line
from offramp.cli.held_out import SkipOption, same_held_out
from offramp.cli.progress import console
from offramp.errors import ConfigError

if TYPE_CHECKING:
    from offramp.authoring.training.run import Run


@told_in_one_line
def train(
    recipe: Annotated[str, typer.Argument(help="Its name, as in b-lenet-mnist; another one lists them all.")],
    data: Annotated[Path, typer.Option(help="IDX directory, image folder, or zip of one.")],
    out: Annotated[Path, typer.Option(help="Directory of the run: settings, checkpoints, log.")],
    labels: Annotated[
        str | None, typer.Option(help="Names of the classes, a,b,c; IDX files carry numbers only.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the data; the recipe's unless given.")
    ] = None,
    validation: Annotated[
        int | None,
        typer.Option(min=1, help="Samples held out to choose thresholds on; the recipe's unless given."),
    ] = None,
    regime: Annotated[
        str,
        typer.Option(
            help="joint: all exits at once. backbone: without the early exits. layer-wise: one exit after the other, "
            "what is done stays frozen. distill: the exits learn from a trained backbone."
        ),
    ] = "joint",
    start: Annotated[
        Path | None,
        typer.Option(help="Run to start from: `joint` from a run of `backbone` is mixed training."),
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(help="distill: run whose last exit teaches, of any recipe; --start unless given."),
    ] = None,
    alpha: Annotated[
        float,
        typer.Option(min=0, max=1, help="distill: share of the teacher in the loss; 1 looks at no label."),
    ] = 0.5,
    temperature: Annotated[float, typer.Option(help="distill: T above 0, softens both sides.")] = 4.0,
    frozen: Annotated[
        bool, typer.Option("--frozen/--unfrozen", help="distill: leave the backbone as it is.")
    ] = True,
    exit_weights: Annotated[
        str | None, typer.Option(help="Weight of each exit's loss, w1,w2,…; the recipe's unless given.")
    ] = None,
    final_exit_weights: Annotated[
        str | None, typer.Option(help="Weights of the last epoch, if they are to move there evenly.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Highest learning rate; the recipe's unless given.")
    ] = None,
    devices: Annotated[
        int, typer.Option(min=1, help="Processes on this machine, or GPUs; they share each batch.")
    ] = 1,
    nodes: Annotated[
        int, typer.Option(min=1, help="Machines; start the command on each, with torchrun or Slurm.")
    ] = 1,
    unlabelled: Annotated[
        bool,
        typer.Option(help="Take every photo below --data, whatever its folder; for distill with --alpha 1."),
    ] = False,
    skip_unreadable: SkipOption = False,
    seed: Annotated[int, typer.Option(help="Of weights, order, augmentation and split.")] = 0,
    resume: Annotated[bool, typer.Option(help="Go on from the run's last checkpoint.")] = False,
) -> None:
    """Train an early-exit network; needs the extra `train`.

    Example: offramp train b-lenet-mnist --data data/mnist --out runs/b-lenet-mnist
    """
    from offramp.authoring.networks.recipes import recipe_named
    from offramp.authoring.training.run import library_versions
    from offramp.authoring.training.train import Machines
    from offramp.authoring.training.train import train as train_run

    plan = recipe_named(recipe)
    if unlabelled:
        images, names = (
            load_unlabelled(data, plan.preprocessing, skip_unreadable=skip_unreadable),
            _taught_labels(regime, alpha, start),
        )
    else:
        images = load_images(data, "train", plan.preprocessing, skip_unreadable=skip_unreadable)
        names = _labels(labels, images)
    run = _run(
        labels=names,
        provenance=Provenance(
            commands=(command_line(),),
            recipe=recipe,
            seed=seed,
            epochs=epochs or plan.epochs,
            data=Data(
                name=data.name,
                samples=len(images),
                fingerprint=images.fingerprint(),
                split=Split(seed=seed, validation=validation or plan.validation),
                labelled=not unlabelled,
            ),
            versions=library_versions(),
        ),
        regime=regime,
        exit_weights=_weights("--exit-weights", exit_weights, len(plan.exit_weights)),
        final_exit_weights=_weights("--final-exit-weights", final_exit_weights, len(plan.exit_weights)),
        learning_rate=learning_rate,
        start=start and str(start),
        teacher=teacher and str(teacher),
        alpha=alpha,
        temperature=temperature,
        frozen=frozen,
    )
    train_run(images, run, out, resume=resume, machines=Machines(devices, nodes))
    console.print(f"trained: {out}; next: offramp export {out} --out DIR")


@told_in_one_line
def compress(
    run: Annotated[Path, typer.Argument(help="Directory of a run made by `offramp train`.")],
    data: Annotated[Path, typer.Option(help="The data it was trained on.")],
    out: Annotated[Path, typer.Option(help="Directory of the new run.")],
    max_bytes: Annotated[
        int | None,
        typer.Option(
            "--bytes",
            min=1,
            help="Learn an encoder and a decoder whose code takes at most so many bytes; without it every value of the "
            "feature is kept and only rounded.",
        ),
    ] = None,
    bits: Annotated[
        float, typer.Option(min=1, max=8, help="Of a value of the code; 2 to the power of it are its levels.")
    ] = 2,
    split_point: Annotated[
        int | None, typer.Option(min=2, help="First block of the next tier; the recipe's unless given.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the data, in each of the two phases.")] = 10,
    learning_rate: Annotated[float, typer.Option(help="Highest learning rate.")] = 0.03,
    teacher: Annotated[
        Path | None,
        typer.Option(help="Run whose last exit teaches, of any recipe; the network as it was unless given."),
    ] = None,
    alpha: Annotated[float, typer.Option(min=0, max=1, help="Share of the teacher in the loss.")] = 0.9,
    temperature: Annotated[float, typer.Option(help="T above 0, softens both sides.")] = 4.0,
    skip_unreadable: SkipOption = False,
    resume: Annotated[bool, typer.Option(help="Go on from the run's last checkpoint.")] = False,
) -> None:
    """Make the feature between the tiers small: round it, or learn a bottleneck; needs the extra `train`.

    What lies before the split stays as it is. The blocks behind it first learn nothing, while the bottleneck learns to
    give back what it is given, and then learn with it from the network as it was, or from a better one.

    Example: offramp compress runs/b-alexnet-cifar10 --data data/cifar10.zip --bytes 128 --out runs/b-alexnet-128
    """
    from offramp.authoring.networks.bottleneck import BottleneckSpec, spec_for
    from offramp.authoring.training.run import feature_shape, load_network, load_run
    from offramp.authoring.training.train import train as train_run

    origin = load_run(run)
    if origin.bottleneck:
        raise ConfigError(f"{run} has a bottleneck already; compress the run it was made from")
    recipe, seen = origin.recipe, origin.provenance.data
    split_point = split_point or recipe.split_point
    levels = round(2**bits)
    if max_bytes is None:
        feature_shape(load_network(run), recipe, split_point)
        spec = BottleneckSpec(split_point=split_point, levels=levels)
    else:
        shape = feature_shape(load_network(run), recipe, split_point)
        spec = spec_for(shape, split_point=split_point, max_bytes=max_bytes, levels=levels)
    images = load_images(data, "train", recipe.preprocessing, skip_unreadable=skip_unreadable)
    same_held_out(images, seen, data)
    provenance = origin.provenance.model_copy(
        update={"commands": (*origin.provenance.commands, command_line()), "epochs": epochs}
    )
    narrowed = _run(
        labels=origin.labels,
        provenance=provenance,
        regime="bottleneck",
        bottleneck=spec,
        start=str(run),
        teacher=teacher and str(teacher),
        learning_rate=learning_rate,
        exit_weights=origin.exit_weights,
        alpha=alpha,
        temperature=temperature,
    )
    train_run(images, narrowed, out, resume=resume)
    console.print(f"compressed: {out}; next: offramp export {out} --out DIR")


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
            "photos without labels can only be learned from with a teacher: --regime distill --alpha 1 --start RUN"
        )
    return load_run(start).labels


def _run(**settings: Any) -> Run:
    from offramp.authoring.training.run import Run

    try:
        return Run(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + str(first["loc"][0]).replace("_", "-")
        raise ConfigError(f"{option}: {first['msg']}, got {first['input']!r}") from error


def _weights(option: str, given: str | None, count: int) -> tuple[float, ...] | None:
    if given is None:
        return None
    try:
        weights = tuple(float(text) for text in given.split(","))
    except ValueError:
        weights = ()
    if len(weights) != count or not all(math.isfinite(w) and w >= 0 for w in weights) or not any(weights):
        raise ConfigError(
            f"{option} is '{given}'; write {count} numbers from 0 up, as in {','.join(['1'] * count)}"
        )
    return weights


def command_line() -> str:
    """The command as it was typed, for the record of what made a run or a bundle."""
    return shlex.join(["offramp", *sys.argv[1:]])
