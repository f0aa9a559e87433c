"""`train`, `export`, `calibrate`: from images to a bundle with operating points."""

from __future__ import annotations

import math
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import numpy as np
import typer
from numpy.typing import NDArray
from pydantic import ValidationError

from offramp.bundle import load_bundle, write_manifest
from offramp.bundle.manifest import Data, Manifest, Measure, Provenance, Split
from offramp.cli.errors import told_in_one_line
from offramp.cli.held_out import SkipOption, held_out, same_held_out
from offramp.cli.progress import console, progress
from offramp.cli.tables import points_table
from offramp.data import LabelledImages, load_images, load_unlabelled
from offramp.errors import ConfigError

if TYPE_CHECKING:
    from offramp.evaluation.predictions import ExitPredictions
    from offramp.networks.early_exit import EarlyExitNetwork
    from offramp.selection.calibrate import Scheme
    from offramp.selection.confidence import Confidence
    from offramp.selection.guarantee import Guarantee
    from offramp.training.run import Run


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
    from offramp.networks.recipes import recipe_named
    from offramp.training.run import library_versions
    from offramp.training.train import Machines
    from offramp.training.train import train as train_run

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
            commands=(_command(),),
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
    alpha: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the network as it was in the loss.")
    ] = 0.9,
    temperature: Annotated[float, typer.Option(help="T above 0, softens both sides.")] = 4.0,
    skip_unreadable: SkipOption = False,
    resume: Annotated[bool, typer.Option(help="Go on from the run's last checkpoint.")] = False,
) -> None:
    """Make the feature between the tiers small: round it, or learn a bottleneck; needs the extra `train`.

    What lies before the split stays as it is. The blocks behind it first learn nothing, while the bottleneck learns to
    give back what it is given, and then learn with it from the network as it was.

    Example: offramp compress runs/b-alexnet-cifar10 --data data/cifar10.zip --bytes 128 --out runs/b-alexnet-128
    """
    from offramp.networks.bottleneck import BottleneckSpec, spec_for
    from offramp.training.run import feature_shape, load_network, load_run
    from offramp.training.train import train as train_run

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
        update={"commands": (*origin.provenance.commands, _command()), "epochs": epochs}
    )
    narrowed = _run(
        labels=origin.labels,
        provenance=provenance,
        regime="bottleneck",
        bottleneck=spec,
        start=str(run),
        learning_rate=learning_rate,
        exit_weights=origin.exit_weights,
        alpha=alpha,
        temperature=temperature,
    )
    train_run(images, narrowed, out, resume=resume)
    console.print(f"compressed: {out}; next: offramp export {out} --out DIR")


@told_in_one_line
def export(
    run: Annotated[Path, typer.Argument(help="Directory of a run made by `offramp train`.")],
    out: Annotated[Path, typer.Option(help="Directory of the new bundle.")],
    name: Annotated[
        str | None, typer.Option(help="Name of the bundle; that of its directory unless given.")
    ] = None,
    measure: Annotated[
        str, typer.Option(help=f"Confidence: {', '.join(get_args(Measure))}; the last needs --fit-on.")
    ] = "max_softmax",
    fit_on: Annotated[
        Path | None,
        typer.Option(
            help="The data it was trained on: fit each exit's temperature, or its learned confidence, on one half of "
            "the validation part, so that it is as sure as it is right."
        ),
    ] = None,
    static: Annotated[
        bool, typer.Option(help="The backbone alone, without early exits: the rival to compare with.")
    ] = False,
) -> None:
    """Export a trained network as a bundle that never stops early, until it is calibrated; needs the extra `train`.

    Example: offramp export runs/b-lenet-mnist --out models/b-lenet-mnist
    """
    from offramp.export import export_bundle
    from offramp.training.run import load_network, load_run

    origin, network = load_run(run), load_network(run)
    network = network.static() if static else network
    confidences = _confidences(network, origin, _measure(measure), fit_on)
    bundle = export_bundle(
        network,
        out,
        name=name or out.resolve().name,
        labels=origin.labels,
        preprocessing=origin.recipe.preprocessing,
        split_point=_split_point(origin, static=static),
        confidences=confidences,
        provenance=_with_command(origin.provenance),
    )
    next_step = "evaluate" if static else "calibrate"
    console.print(f"exported: {bundle.manifest.bundle_id}; next: offramp {next_step} {out} --data PATH")


@told_in_one_line
def calibrate(
    bundle: Annotated[Path, typer.Argument(help="Bundle directory.")],
    data: Annotated[Path, typer.Option(help="The data it was trained on; its validation part is used.")],
    max_drop: Annotated[
        float | None,
        typer.Option(
            help="Cheapest point at most so many percentage points below the full network; 0.5 unless given."
        ),
    ] = None,
    max_cost: Annotated[
        float | None,
        typer.Option(help="Most accurate point that costs at most this share of the backbone, 0 to 1."),
    ] = None,
    max_ms: Annotated[
        float | None,
        typer.Option(
            help="Most accurate point that computes so many milliseconds on average, measured here, one thread."
        ),
    ] = None,
    max_bytes: Annotated[
        float | None,
        typer.Option(
            help="Most accurate point that sends so many bytes per request on average, all counted."
        ),
    ] = None,
    scheme: Annotated[
        str,
        typer.Option(
            help="search: the best thresholds. gates: each exit by itself, spoils at most --max-drop percent of what "
            "it accepts. quantiles: geometric exit shares within --max-cost."
        ),
    ] = "search",
    guarantee: Annotated[
        float | None,
        typer.Option(
            help="Also certify the cheapest point whose risk is at most this share; the default if no limit is given."
        ),
    ] = None,
    delta: Annotated[float, typer.Option(help="Chance, 0 to 1, that the guarantee may fail.")] = 0.1,
    risk: Annotated[
        str,
        typer.Option(
            help="disagreement with the full network, or harm: what it had right and an exit spoils."
        ),
    ] = "disagreement",
    skip_unreadable: SkipOption = False,
) -> None:
    """Choose thresholds on the validation part, which training never saw, and write them into the bundle.

    Example: offramp calibrate models/b-lenet-mnist --data data/mnist --max-drop 0.5
    """
    from offramp.evaluation.predictions import predict_every_exit
    from offramp.evaluation.timing import exit_ms
    from offramp.selection.budget import bytes_budget, ms_budget
    from offramp.selection.calibrate import calibrate as choose
    from offramp.selection.calibrate import certify, check_budget

    check_budget(max_drop=max_drop, max_cost=max_cost, max_ms=max_ms, max_bytes=max_bytes, scheme=scheme)
    asked = None if guarantee is None else _guarantee(risk, guarantee, delta)
    loaded = load_bundle(bundle)
    manifest = loaded.manifest
    validation = held_out(manifest, data, bundle, skip_unreadable=skip_unreadable)
    with progress("validation images", len(validation)) as advance:
        predictions = predict_every_exit(loaded, validation.pixels, advance=advance)
    classes = _truth(manifest, validation, predictions)
    table = predictions.against(classes)
    budget = bytes_budget(manifest, max_bytes) if max_bytes is not None else None
    spent = exit_ms(loaded, validation.pixels)
    if max_ms is not None:
        budget = ms_budget(max_ms, spent)
    chosen = choose(
        manifest,
        table,
        max_drop=max_drop,
        max_cost=max_cost,
        budget=budget,
        scheme=cast("Scheme", scheme),
        exit_ms=spent,
        payload_bytes=predictions.payload_bytes,
    )
    if asked:
        fingerprint = validation.fingerprint()
        is_default = all(limit is None for limit in (max_drop, max_cost, max_ms, max_bytes))
        chosen = certify(
            chosen,
            predictions,
            classes,
            asked,
            data_fingerprint=fingerprint,
            default=is_default,
            exit_ms=spent,
        )
    if chosen.provenance:
        chosen = chosen.model_copy(update={"provenance": _calibrated(chosen.provenance)})
    write_manifest(bundle, Manifest.model_validate(chosen.model_dump()))
    console.print(points_table(chosen))


def _confidences(
    network: EarlyExitNetwork, origin: Run, measure: Measure, data: Path | None
) -> list[Confidence]:
    from offramp.selection.confidence import Confidence
    from offramp.selection.confidence_head import fit_confidence_head
    from offramp.selection.guarantee import halves
    from offramp.selection.temperature import fit_temperature
    from offramp.training.logits import logits_of

    if data is None and measure == "learned":
        raise ConfigError("--measure learned needs --fit-on DATA: the data it was trained on")
    if data is None:
        return [Confidence(measure)] * network.num_exits
    images = load_images(data, "train", origin.recipe.preprocessing)
    validation = same_held_out(images, origin.provenance.data, data)
    proposing, _ = halves(len(validation))
    validation = validation.take(proposing)
    classes = validation.classes_as(origin.labels)
    of_exits = logits_of(network, validation, origin.recipe)
    if measure == "learned":
        return [Confidence(measure, head=fit_confidence_head(logits_NK, classes)) for logits_NK in of_exits]
    found = [fit_temperature(logits_NK, classes) for logits_NK in of_exits]
    console.print("temperatures: " + ", ".join(f"{temperature:.3f}" for temperature in found))
    return [Confidence(measure, temperature) for temperature in found]


def _split_point(origin: Run, *, static: bool) -> int:
    if static:
        return 2
    return origin.bottleneck.split_point if origin.bottleneck else origin.recipe.split_point


def _truth(manifest: Manifest, images: LabelledImages, predictions: ExitPredictions) -> NDArray[np.int64]:
    """Their classes; where nobody knows them, what the full network says: accuracy is agreement with it then."""
    if manifest.provenance and not manifest.provenance.data.labelled:
        return predictions.class_index[:, -1]
    return images.classes_as(manifest.labels)


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
    from offramp.training.run import load_run

    if regime != "distill" or alpha < 1 or start is None:
        raise ConfigError(
            "photos without labels can only be learned from with a teacher: --regime distill --alpha 1 --start RUN"
        )
    return load_run(start).labels


def _run(**settings: Any) -> Run:
    from offramp.training.run import Run

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


def _guarantee(risk: str, epsilon: float, delta: float) -> Guarantee:
    from offramp.selection.guarantee import Guarantee

    try:
        return Guarantee.model_validate({"risk": risk, "epsilon": epsilon, "delta": delta})
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"guarantee: {first['loc'][0]}: {first['msg']}, got {first['input']!r}") from error


def _measure(name: str) -> Measure:
    if name not in get_args(Measure):
        raise ConfigError(f"measure is '{name}'; expected {', '.join(get_args(Measure))}")
    return cast("Measure", name)


def _command() -> str:
    return shlex.join(["offramp", *sys.argv[1:]])


def _with_command(provenance: Provenance) -> Provenance:
    return provenance.model_copy(update={"commands": (*provenance.commands, _command())})


def _calibrated(provenance: Provenance) -> Provenance:
    # Calibrating again replaces the earlier thresholds, and so their command.
    kept = tuple(c for c in provenance.commands if not c.startswith("offramp calibrate "))
    return _with_command(provenance.model_copy(update={"commands": kept}))
