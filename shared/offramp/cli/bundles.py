"""`export`, `calibrate`: from a run to a bundle with operating points."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import numpy as np
import typer
from numpy.typing import NDArray
from pydantic import ValidationError

from offramp.authoring.data import LabelledImages, load_images
from offramp.bundle import load_bundle, write_manifest
from offramp.bundle.manifest import Manifest, Measure, Provenance
from offramp.cli.errors import told_in_one_line
from offramp.cli.held_out import SkipOption, held_out, same_held_out
from offramp.cli.measure import RuntimeOption, runtime_named
from offramp.cli.progress import console, progress
from offramp.cli.runs import command_line
from offramp.cli.tables import points_table
from offramp.errors import ConfigError

if TYPE_CHECKING:
    from offramp.authoring.evaluation.predictions import ExitPredictions
    from offramp.authoring.networks.confidence import Confidence
    from offramp.authoring.networks.early_exit import EarlyExitNetwork
    from offramp.authoring.selection.calibrate import Scheme
    from offramp.authoring.selection.guarantee import Guarantee
    from offramp.authoring.training.run import Run


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
    aggregate: Annotated[
        bool,
        typer.Option(
            help="Let the last exit answer with the geometric mean of all exits: it costs nothing, and is right more "
            "often where the tail is weak, as behind a bottleneck."
        ),
    ] = False,
) -> None:
    """Export a trained network as a bundle that never stops early, until it is calibrated; needs the extra `train`.

    Example: offramp export runs/b-lenet-mnist --out models/b-lenet-mnist
    """
    from offramp.authoring.export import export_bundle
    from offramp.authoring.training.run import load_network, load_run

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
        aggregates=aggregate and not static,
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
            help="Most accurate point that computes so many milliseconds on average, one thread; measured here, or "
            "taken from --profile."
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
    profile: Annotated[
        Path | None,
        typer.Option(
            help="Milliseconds from this file, made by `offramp profile --json`, instead of measuring."
        ),
    ] = None,
    runtime: RuntimeOption = "onnx",
    skip_unreadable: SkipOption = False,
) -> None:
    """Choose thresholds on the validation part, which training never saw, and write them into the bundle.

    Example: offramp calibrate models/b-lenet-mnist --data data/mnist --max-drop 0.5
    """
    from offramp.authoring.evaluation.predictions import predict_every_exit
    from offramp.authoring.evaluation.profile import read_profile
    from offramp.authoring.evaluation.timing import exit_ms
    from offramp.authoring.selection.budget import bytes_budget, ms_budget
    from offramp.authoring.selection.calibrate import calibrate as choose
    from offramp.authoring.selection.calibrate import certify, check_budget

    check_budget(max_drop=max_drop, max_cost=max_cost, max_ms=max_ms, max_bytes=max_bytes, scheme=scheme)
    asked = None if guarantee is None else _guarantee(risk, guarantee, delta)
    loaded, runs_on = load_bundle(bundle), runtime_named(runtime)
    manifest = loaded.manifest
    spent = read_profile(profile).exit_ms(manifest, runtime=runs_on) if profile else None
    validation = held_out(manifest, data, bundle, skip_unreadable=skip_unreadable)
    with progress("validation images", len(validation)) as advance:
        predictions = predict_every_exit(loaded, validation.pixels, runtime=runs_on, advance=advance)
    classes = _truth(manifest, validation, predictions)
    table = predictions.against(classes)
    budget = bytes_budget(manifest, max_bytes) if max_bytes is not None else None
    spent = spent or exit_ms(loaded, validation.pixels, runtime=runs_on)
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
    from offramp.authoring.networks.confidence import Confidence
    from offramp.authoring.selection.confidence_head import fit_confidence_head
    from offramp.authoring.selection.guarantee import halves
    from offramp.authoring.selection.temperature import fit_temperature
    from offramp.authoring.training.logits import logits_of

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


def _guarantee(risk: str, epsilon: float, delta: float) -> Guarantee:
    from offramp.authoring.selection.guarantee import Guarantee

    try:
        return Guarantee.model_validate({"risk": risk, "epsilon": epsilon, "delta": delta})
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"guarantee: {first['loc'][0]}: {first['msg']}, got {first['input']!r}") from error


def _measure(name: str) -> Measure:
    if name not in get_args(Measure):
        raise ConfigError(f"measure is '{name}'; expected {', '.join(get_args(Measure))}")
    return cast("Measure", name)


def _with_command(provenance: Provenance) -> Provenance:
    return provenance.model_copy(update={"commands": (*provenance.commands, command_line())})


def _calibrated(provenance: Provenance) -> Provenance:
    # Calibrating again replaces the earlier thresholds, and so their command.
    kept = tuple(c for c in provenance.commands if not c.startswith("offramp calibrate "))
    return _with_command(provenance.model_copy(update={"commands": kept}))
