"""`calibrate`: chooses thresholds on samples that training never saw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import NDArray
from pydantic import Field

from offramp.authoring.data.reading import CACHE_MB
from offramp.bundle import Bundle, load_bundle, write_manifest
from offramp.bundle.manifest import Manifest, RiskName
from offramp.bundle.provenance import Provenance
from offramp.cli.held_out import held_out, origin_of
from offramp.cli.options import BundleArgument, CacheOption, PayloadOption, RuntimeOption, SkipOption
from offramp.cli.predictions import predictions_of
from offramp.cli.progress import console, warn
from offramp.cli.reading import Reading
from offramp.cli.tables import points_table
from offramp.command import Command
from offramp.engine.payload import is_lossy

if TYPE_CHECKING:
    from offramp.authoring.data import LabelledImages
    from offramp.authoring.evaluation.offloads import Offloads
    from offramp.authoring.evaluation.predictions import ExitPredictions
    from offramp.authoring.selection.budget import Budget


class Calibrate(Command):
    """Choose thresholds on the validation part, which training never saw, and write them into the bundle.

    Example: offramp calibrate models/b-lenet-mnist --data data/mnist --max-drop 0.5
    """

    bundle: BundleArgument
    data: Path = Field(
        description="the data the network was trained on, or the photos it was given as --calibration; only those that "
        "training never saw are used"
    )
    max_drop: float | None = Field(
        default=None,
        description="cheapest point that is at most this many percentage points less accurate than the full network "
        "(default: 0.5)",
    )
    max_cost: float | None = Field(
        default=None, description="most accurate point that costs at most this share of the backbone, 0 to 1"
    )
    max_ms: float | None = Field(
        default=None,
        description="most accurate point that computes at most this many milliseconds per sample on average, on one "
        "thread; measured here, or taken from --profile",
    )
    max_bytes: float | None = Field(
        default=None,
        description="most accurate point that sends at most this many bytes per request on average, framing included",
    )
    scheme: Literal["search", "gates", "quantiles"] = Field(
        default="search",
        description="search: the best thresholds. gates: each exit separately; at most --max-drop percent of the "
        "samples it accepts may be wrong where the full network is right. quantiles: geometric exit shares within "
        "--max-cost",
    )
    guarantee: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="also certify the cheapest point whose risk is at most this share; it becomes the default if no "
        "other limit is given",
    )
    delta: float = Field(default=0.1, gt=0, lt=1, description="probability that the guarantee does not hold")
    risk: RiskName = Field(
        default="disagreement",
        description="disagreement: the early answer differs from the full network's. harm: the early answer is wrong "
        "where the full network is right",
    )
    profile: Path | None = Field(
        default=None,
        description="take milliseconds from this file, made by `offramp profile --json`, instead of measuring",
    )
    payload: PayloadOption = None
    runtime: RuntimeOption = "onnx"
    skip_unreadable: SkipOption = False
    cache_mb: CacheOption = CACHE_MB

    def execute(self) -> None:
        """Predict, choose, certify if asked to, write, and show the operating points."""
        from offramp.authoring.evaluation.profile import read_profile
        from offramp.authoring.evaluation.timing import exit_ms
        from offramp.authoring.selection.calibrate import calibrate, check_budget

        check_budget(
            max_drop=self.max_drop,
            max_cost=self.max_cost,
            max_ms=self.max_ms,
            max_bytes=self.max_bytes,
            scheme=self.scheme,
        )
        loaded = load_bundle(self.bundle)
        manifest = loaded.manifest
        spent = read_profile(self.profile).exit_ms(manifest, runtime=self.runtime) if self.profile else None
        reading = Reading(self.skip_unreadable, self.cache_mb, manifest.task.kind)
        validation = held_out(origin_of(manifest, self.bundle), manifest.preprocessing, self.data, reading)
        predictions = predictions_of(
            loaded, validation, what="validation images", runtime=self.runtime, payload=self.payload
        )
        spent = spent or exit_ms(loaded, validation.pixels, runtime=self.runtime)
        classes = _truth(manifest, validation, predictions)
        chosen = calibrate(
            manifest,
            predictions.against(classes),
            max_drop=self.max_drop,
            max_cost=self.max_cost,
            budget=self._budget(manifest, spent, predictions.offloads),
            scheme=self.scheme,
            exit_ms=spent,
            offloads=predictions.offloads,
        )
        if self.guarantee is not None:
            chosen = self._certified(chosen, predictions, classes, validation.fingerprint(), spent)
        if self.guarantee is None and is_lossy(chosen.operating_point.payload):
            warn(
                f"{chosen.operating_point.payload} is lossy and not certified: what it costs in accuracy is in the "
                "figures of the held-out samples, but only --guarantee says how much it can be beyond them"
            )
        self._write(loaded, chosen)

    def _budget(self, manifest: Manifest, spent: Sequence[float], offloads: Offloads | None) -> Budget | None:
        from offramp.authoring.selection.budget import bytes_budget, ms_budget

        if self.max_ms is not None:
            return ms_budget(self.max_ms, spent)
        return None if self.max_bytes is None else bytes_budget(manifest, self.max_bytes, offloads)

    def _certified(
        self,
        chosen: Manifest,
        predictions: ExitPredictions,
        classes_N: NDArray[Any],
        fingerprint: str,
        spent: Sequence[float],
    ) -> Manifest:
        from offramp.authoring.selection.calibrate import certify
        from offramp.authoring.selection.guarantee import Guarantee

        limits = (self.max_drop, self.max_cost, self.max_ms, self.max_bytes)
        return certify(
            chosen,
            predictions,
            classes_N,
            Guarantee(risk=self.risk, epsilon=self.guarantee or 0.0, delta=self.delta),
            data_fingerprint=fingerprint,
            default=all(limit is None for limit in limits),
            exit_ms=spent,
        )

    def _write(self, loaded: Bundle, chosen: Manifest) -> None:
        if chosen.provenance:
            provenance = _calibrated_by(self.as_typed, chosen.provenance)
            chosen = chosen.model_copy(update={"provenance": provenance})
        write_manifest(loaded.directory, Manifest.model_validate(chosen.model_dump()))
        console.print(points_table(chosen))


def _truth(manifest: Manifest, images: LabelledImages, predictions: ExitPredictions) -> NDArray[Any]:
    """The truth about the images; if unknown, the full network's answers, so that accuracy means agreement with it."""
    if manifest.provenance and not manifest.provenance.data.labelled:
        return predictions.full
    return images.classes_as(manifest.labels)


def _calibrated_by(command: str, provenance: Provenance) -> Provenance:
    # Calibrating again replaces the earlier thresholds, so the earlier command goes too.
    kept = (each for each in provenance.commands if not each.startswith("offramp calibrate "))
    return provenance.model_copy(update={"commands": (*kept, command)})
