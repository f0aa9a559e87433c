"""`evaluate` and `predict`: what a bundle says, in one process, without a node."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated, cast

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from offramp.authoring.data import LabelledImages, load_images
from offramp.authoring.evaluation.comparison import alternatives
from offramp.authoring.evaluation.measures import compare_measures
from offramp.authoring.evaluation.page import Evaluated, write_page
from offramp.authoring.evaluation.predictions import ExitPredictions, predict_every_exit
from offramp.authoring.evaluation.report import RivalReport, report, rival_report
from offramp.authoring.evaluation.timing import exit_ms
from offramp.bundle import Bundle, Manifest, load_bundle
from offramp.cli.errors import told_in_one_line
from offramp.cli.held_out import SkipOption, held_out
from offramp.cli.measure import RuntimeOption, runtime_named
from offramp.cli.progress import console, progress
from offramp.cli.tables import quality_tables, report_table
from offramp.engine.images import decode_image
from offramp.engine.runtime import Runtime, load_blocks
from offramp.engine.tier import Answer, Tier, checked_thetas
from offramp.errors import ConfigError, DataError, RequestError

BundleArgument = Annotated[Path, typer.Argument(help="Bundle directory.")]
PointOption = Annotated[str | None, typer.Option(help="Operating point; the bundle's default unless given.")]
ThetasOption = Annotated[
    str | None, typer.Option(help="θ by hand instead, one per exit but the last: 0.9,0.8")
]


@told_in_one_line
def evaluate(
    bundle: BundleArgument,
    data: Annotated[Path, typer.Option(help="IDX directory, image folder, or zip of one.")],
    part: Annotated[
        str, typer.Option(help="test, or validation: the part thresholds are chosen on.")
    ] = "test",
    skip_unreadable: SkipOption = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only so many images, drawn evenly over the part.")
    ] = None,
    point: PointOption = None,
    thetas: ThetasOption = None,
    rival: Annotated[
        list[Path] | None,
        typer.Option(
            help="Bundle to compare with, all its samples to its last exit; may be given several times."
        ),
    ] = None,
    runtime: RuntimeOption = "onnx",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of a table.")
    ] = False,
    page: Annotated[
        Path | None, typer.Option(help="Also write all of it, with plots and photos, to this HTML file.")
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option(help="Also write each image's prediction to this CSV file.")
    ] = None,
) -> None:
    """Accuracy, exit rates and cost, per exit and in total, computed by the graphs that serve.

    Example: offramp evaluate models/b-lenet-fashion --data samples/fashion-mnist
    """
    loaded, runs_on = load_bundle(bundle), runtime_named(runtime)
    manifest = loaded.manifest
    images = _part(manifest, data, part, bundle, skip_unreadable=skip_unreadable)
    if limit is not None and limit < len(images):
        images = images.take(np.linspace(0, len(images) - 1, limit).astype(np.int64))
    name, chosen = _thetas(manifest, point, thetas)
    if predictions and not predictions.parent.is_dir():
        raise ConfigError(f"{predictions} cannot be written: {predictions.parent} is no directory")
    rivals = [_rival(directory, manifest) for directory in rival or []]
    with progress("images", len(images)) as advance:
        found = predict_every_exit(loaded, images.pixels, runtime=runs_on, advance=advance)
    classes = images.classes_as(manifest.labels)
    table = found.against(classes)
    split_point = manifest.point_named(name or manifest.default_operating_point).split_point
    spent = exit_ms(loaded, images.pixels, runtime=runs_on)
    summary = report(
        manifest,
        table,
        chosen,
        split_point=split_point,
        name=name,
        exit_ms=spent,
        payload_bytes=found.payload_bytes,
    )
    right_N = table.correct_at(table.exit_taken(chosen))
    compared = tuple(_compare(other, images, right_N, runs_on) for other in rivals)
    others = (
        alternatives(found.probabilities, classes, manifest.exit_macs, aggregates=manifest.aggregates)
        if manifest.num_exits > 1
        else ()
    )
    summary = summary.model_copy(
        update={
            "rivals": compared,
            "alternatives": others,
            "measures": compare_measures(manifest, found.probabilities, table),
        }
    )
    if page:
        points = [
            report(manifest, table, p.thetas, split_point=p.split_point, name=p.name)
            for p in manifest.operating_points
        ]
        taken_N = table.exit_taken(chosen)
        write_page(page, Evaluated(manifest, images, classes, table, taken_N, summary, points))
        console.print(f"page: {page}")
    if predictions:
        _write_predictions(predictions, manifest, images, found, table.exit_taken(chosen))
    if as_json:
        typer.echo(summary.model_dump_json())
    else:
        for sheet in (report_table(summary), *quality_tables(summary)):
            Console().print(sheet)


@told_in_one_line
def predict(
    bundle: BundleArgument,
    images: Annotated[list[Path], typer.Argument(help="JPEG, PNG or WebP files.")],
    point: PointOption = None,
    thetas: ThetasOption = None,
) -> None:
    """Classify image files in this process and show where each one leaves.

    Example: offramp predict models/b-lenet-fashion samples/fashion-mnist/bag/*.png
    """
    loaded = load_bundle(bundle)
    manifest = loaded.manifest
    _, chosen = _thetas(manifest, point, thetas)
    tier = Tier(manifest, load_blocks(loaded, 1, len(manifest.blocks)), start=1)
    table = Table()
    for column in ("image", "label", "confidence", "exit"):
        table.add_column(column, justify="right" if column == "confidence" else "left")
    for path in images:
        try:
            pixels = decode_image(path.read_bytes(), manifest.preprocessing)
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
        except RequestError as error:
            raise type(error)(f"{path}: {error}") from error
        answer = cast("Answer", tier.run(pixels[np.newaxis], chosen)[0])
        table.add_row(
            str(path),
            manifest.labels[answer.class_index],
            f"{answer.confidence:.3f}",
            str(answer.exit_number),
        )
    Console().print(table)


def _rival(directory: Path, manifest: Manifest) -> Bundle:
    rival = load_bundle(directory)
    if set(rival.manifest.labels) != set(manifest.labels):
        raise ConfigError(
            f"{directory} knows other classes than {manifest.bundle_id}; only networks of one task can be compared"
        )
    if rival.manifest.preprocessing.pixel_shape != manifest.preprocessing.pixel_shape:
        raise ConfigError(
            f"{directory} takes images of {rival.manifest.preprocessing.pixel_shape}, {manifest.bundle_id} of "
            f"{manifest.preprocessing.pixel_shape}; compare networks that see the same images"
        )
    return rival


def _compare(
    rival: Bundle, images: LabelledImages, right_N: NDArray[np.bool_], runtime: Runtime
) -> RivalReport:
    with progress(f"images, {rival.manifest.name}", len(images)) as advance:
        found = predict_every_exit(rival, images.pixels, runtime=runtime, advance=advance)
    correct = found.against(images.classes_as(rival.manifest.labels)).correct[:, -1]
    return rival_report(
        rival.manifest, right_N, correct, ms=exit_ms(rival, images.pixels, runtime=runtime)[-1]
    )


def _part(
    manifest: Manifest, data: Path, part: str, bundle: Path, *, skip_unreadable: bool
) -> LabelledImages:
    match part:
        case "test":
            images = load_images(data, "test", manifest.preprocessing, skip_unreadable=skip_unreadable)
            if manifest.provenance and images.fingerprint() == manifest.provenance.data.fingerprint:
                raise DataError(
                    f"{data} is what this bundle was trained on; give a test part it has never seen, "
                    "or --part validation"
                )
            return images
        case "validation":
            return held_out(manifest, data, bundle, skip_unreadable=skip_unreadable)
        case _:
            raise ConfigError(f"part is '{part}'; expected test or validation")


def _thetas(
    manifest: Manifest, point: str | None, thetas: str | None
) -> tuple[str | None, tuple[float, ...]]:
    if thetas is not None and point is not None:
        raise ConfigError("--point and --thetas exclude each other; give one of them")
    if thetas is not None:
        try:
            values = [float(text) for text in thetas.split(",") if text.strip()]
        except ValueError as error:
            raise ConfigError(f"--thetas is '{thetas}'; write numbers from 0 to 1, as in 0.9,0.8") from error
        return None, checked_thetas(values, manifest)
    name = point or manifest.default_operating_point
    try:
        return name, manifest.point_named(name).thetas
    except KeyError as error:
        names = ", ".join(p.name for p in manifest.operating_points)
        raise ConfigError(f"no operating point '{name}'; the bundle has {names}") from error


def _write_predictions(
    path: Path, manifest: Manifest, images: LabelledImages, found: ExitPredictions, taken_N: np.ndarray
) -> None:
    truth_N = images.classes_as(manifest.labels)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "truth", "label", "exit", "confidence"])
        for n, exit in enumerate(taken_N):
            label = manifest.labels[found.class_index[n, exit]]
            confidence = f"{found.confidence[n, exit]:.9g}"
            writer.writerow([images.sources[n], manifest.labels[truth_N[n]], label, exit + 1, confidence])
    console.print(f"predictions: {path}")
