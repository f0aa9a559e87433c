"""`evaluate`: measures a bundle on a data set, with the graphs that serve."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from rich.console import Console

from offramp.authoring.data.reading import CACHE_MB
from offramp.bundle import Bundle, Manifest, load_bundle
from offramp.bundle.precision import doubts_about
from offramp.cli.held_out import held_out, origin_of
from offramp.cli.options import (
    BundleArgument,
    CacheOption,
    PayloadOption,
    PointOption,
    RuntimeOption,
    SkipOption,
    ThetasOption,
    chosen_thetas,
)
from offramp.cli.predictions import predictions_of, write_predictions
from offramp.cli.progress import console, progress, warn
from offramp.cli.reading import Reading
from offramp.cli.tables import quality_tables, report_table
from offramp.command import Command
from offramp.engine.payload import is_lossy
from offramp.errors import ConfigError, DataError

if TYPE_CHECKING:
    from offramp.authoring.data import LabelledImages
    from offramp.authoring.evaluation.comparison import Alternative
    from offramp.authoring.evaluation.held_out import HeldOut
    from offramp.authoring.evaluation.predictions import ExitPredictions
    from offramp.authoring.evaluation.report import Report, RivalReport


class Evaluate(Command):
    """Measure accuracy, exit rates and cost, per exit and in total, with the graphs that serve.

    Example: offramp evaluate models/b-lenet-fashion --data samples/fashion-mnist
    """

    bundle: BundleArgument
    data: Path = Field(description="directory of IDX files, an image folder, or a zip or tar of one")
    part: Literal["test", "validation"] = Field(
        default="test", description="validation is what thresholds are chosen on"
    )
    skip_unreadable: SkipOption = False
    cache_mb: CacheOption = CACHE_MB
    limit: int | None = Field(
        default=None, ge=1, description="use only this many images, spaced evenly over the part"
    )
    point: PointOption = None
    thetas: ThetasOption = None
    rival: list[Path] = Field(
        default=[],
        description="bundle to compare with, which runs every sample to its last exit; may be given several times",
    )
    payload: PayloadOption = None
    runtime: RuntimeOption = "onnx"
    as_json: bool = Field(default=False, alias="json", description="print one JSON object instead of tables")
    page: Path | None = Field(
        default=None, description="also write everything, with plots and photos, to this HTML file"
    )
    predictions: Path | None = Field(
        default=None, description="also write each image's prediction to this CSV file"
    )

    def execute(self) -> None:
        """Predict with every exit, and show the results."""
        loaded = load_bundle(self.bundle)
        manifest = loaded.manifest
        images = self._images(manifest)
        name, thetas = chosen_thetas(manifest, self.point, self.thetas)
        if self.predictions and not self.predictions.parent.is_dir():
            raise ConfigError(
                f"{self.predictions} cannot be written: {self.predictions.parent} is not a directory"
            )
        rivals = [_rival(directory, manifest) for directory in self.rival]
        found = predictions_of(loaded, images, what="images", runtime=self.runtime, payload=self.payload)
        summary = self._summary(loaded, images, found, name, thetas, rivals)
        if summary.held_out and summary.held_out.is_beyond_chance:
            warn(summary.held_out.meaning)
        _warn_of_payload(manifest, summary)
        for doubt in doubts_about(manifest):
            warn(doubt)
        if summary.overshoot:
            warn(summary.overshoot.meaning)
        taken_N = found.against(images.classes_as(manifest.labels)).exit_taken(thetas)
        if self.page:
            self._write_page(self.page, manifest, images, found, summary, taken_N)
        if self.predictions:
            write_predictions(self.predictions, manifest, images, found, taken_N)
        if self.as_json:
            print(summary.model_dump_json())  # noqa: T201 - the output of the command
        else:
            for sheet in (report_table(summary), *quality_tables(summary)):
                Console().print(sheet)

    def _images(self, manifest: Manifest) -> LabelledImages:
        reading = Reading(self.skip_unreadable, self.cache_mb, manifest.task.kind)
        if self.part == "validation":
            images = held_out(origin_of(manifest, self.bundle), manifest.preprocessing, self.data, reading)
        else:
            images = reading.part(self.data, "test", manifest.preprocessing)
            _check_unseen(images, manifest, self.data)
        if self.limit is None or self.limit >= len(images):
            return images
        return images.take(np.linspace(0, len(images) - 1, self.limit).astype(np.int64))

    def _summary(
        self,
        loaded: Bundle,
        images: LabelledImages,
        found: ExitPredictions,
        name: str | None,
        thetas: Sequence[float],
        rivals: Sequence[Bundle],
    ) -> Report:
        from offramp.authoring.evaluation.judging import closeness
        from offramp.authoring.evaluation.measures import compare_measures
        from offramp.authoring.evaluation.report import report
        from offramp.authoring.evaluation.timing import exit_ms

        manifest = loaded.manifest
        classes = images.classes_as(manifest.labels)
        table = found.against(classes)
        summary = report(
            manifest,
            table,
            thetas,
            split_point=manifest.point_named(name or manifest.default_operating_point).split_point,
            name=name,
            exit_ms=exit_ms(loaded, images.pixels, runtime=self.runtime),
            offloads=found.offloads,
        )
        taken_N = table.exit_taken(thetas)
        right_N, unfamiliar_N = table.correct_at(taken_N), found.unfamiliar_at(taken_N)
        return summary.model_copy(
            update={
                "rivals": tuple(self._compared(rival, images, right_N, manifest) for rival in rivals),
                "unfamiliar_rate": None if unfamiliar_N is None else float(unfamiliar_N.mean()),
                "alternatives": _others(manifest, found, classes),
                "closeness": closeness(
                    manifest.task, found.said[np.arange(len(taken_N)), taken_N], found.full, classes
                ),
                "measures": compare_measures(manifest, found.probabilities, table),
                "held_out": self._held_out(manifest, summary),
            }
        )

    def _held_out(self, manifest: Manifest, summary: Report) -> HeldOut | None:
        from offramp.authoring.evaluation.held_out import compare_held_out

        if self.part != "test":
            return None
        return compare_held_out(
            manifest,
            summary.operating_point,
            accuracy=summary.accuracy,
            full_accuracy=summary.full_accuracy,
            samples=summary.samples,
        )

    def _as_seen_by(self, rival: Bundle, images: LabelledImages, ours: Manifest) -> LabelledImages:
        """The same images, at the size and in the way that a rival takes them."""
        if rival.manifest.preprocessing == ours.preprocessing:
            return images
        again = self._images(rival.manifest)
        if again.sources != images.sources:
            raise ConfigError(
                f"{rival.directory} would be judged by {len(again)} other images than {ours.bundle_id}; compare on the "
                "test part"
            )
        return again

    def _compared(
        self, rival: Bundle, images: LabelledImages, right_N: NDArray[np.bool_], ours: Manifest
    ) -> RivalReport:
        from offramp.authoring.evaluation.predictions import predict_every_exit
        from offramp.authoring.evaluation.report import rival_report
        from offramp.authoring.evaluation.timing import exit_ms

        images = self._as_seen_by(rival, images, ours)
        with progress(f"images, {rival.manifest.name}", len(images)) as advance:
            found = predict_every_exit(rival, images.pixels, runtime=self.runtime, advance=advance)
        correct = found.against(images.classes_as(rival.manifest.labels)).correct[:, -1]
        ms = exit_ms(rival, images.pixels, runtime=self.runtime)[-1]
        return rival_report(rival.manifest, right_N, correct, ms=ms)

    def _write_page(
        self,
        page: Path,
        manifest: Manifest,
        images: LabelledImages,
        found: ExitPredictions,
        summary: Report,
        taken_N: NDArray[np.int64],
    ) -> None:
        from offramp.authoring.evaluation.page import Evaluated, write_page
        from offramp.authoring.evaluation.report import report

        classes = images.classes_as(manifest.labels)
        table = found.against(classes)
        points = [
            report(
                manifest,
                table,
                point.thetas,
                split_point=point.split_point,
                name=point.name,
                offloads=found.offloads,
            )
            for point in manifest.operating_points
        ]
        evaluated = Evaluated(
            manifest=manifest,
            images=images,
            truth_N=classes,
            predicted_N=found.said[np.arange(len(classes)), taken_N],
            table=table,
            taken_N=taken_N,
            report=summary,
            points=points,
            data=f"{self.data}, {self.part} part",
            command=self.as_typed,
        )
        write_page(page, evaluated)
        console.print(f"page: {page}")


def _warn_of_payload(manifest: Manifest, summary: Report) -> None:
    point = manifest.point_named(summary.operating_point or manifest.default_operating_point)
    if is_lossy(summary.payload) and summary.payload != point.payload:
        certified = " and certified" if point.certificate else ""
        warn(
            f"'{point.name}' was calibrated{certified} with payload {point.payload}, not {summary.payload}; "
            f"`offramp calibrate --payload {summary.payload}` chooses thresholds for it"
        )


def _others(
    manifest: Manifest, found: ExitPredictions, classes_N: NDArray[np.int64]
) -> tuple[Alternative, ...]:
    """What other schemes achieve with the same exits; they are for exclusive classes only."""
    from offramp.authoring.evaluation.comparison import alternatives

    if manifest.num_exits == 1 or manifest.task.kind != "single_label":
        return ()
    return alternatives(found.probabilities, classes_N, manifest.exit_macs, aggregates=manifest.aggregates)


def _check_unseen(images: LabelledImages, manifest: Manifest, path: Path) -> None:
    if manifest.provenance is None:
        return
    origin = manifest.provenance.data
    what = {origin.fingerprint: "was trained on"}
    if origin.calibration:
        what[origin.calibration.fingerprint] = "has its thresholds from"
    if (fingerprint := images.fingerprint()) in what:
        raise DataError(
            f"{path} is what this bundle {what[fingerprint]}; give a test part it has never seen, or --part validation"
        )


def _rival(directory: Path, manifest: Manifest) -> Bundle:
    rival = load_bundle(directory)
    if set(rival.manifest.labels) != set(manifest.labels) or rival.manifest.task != manifest.task:
        raise ConfigError(
            f"{directory} has other classes than {manifest.bundle_id}, or another task; compare only networks for the "
            "same task"
        )
    return rival
