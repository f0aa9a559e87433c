"""`export`: turns a run into a bundle, which never stops early until it is calibrated."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from offramp.authoring.data.reading import CACHE_MB
from offramp.bundle.manifest import Manifest, Measure
from offramp.cli.held_out import held_out
from offramp.cli.options import CacheOption, RunArgument, SkipOption
from offramp.cli.progress import console
from offramp.cli.reading import Reading
from offramp.command import Command
from offramp.engine.payload import PayloadRule
from offramp.errors import ConfigError

if TYPE_CHECKING:
    from offramp.authoring.networks.confidence import Confidence
    from offramp.authoring.networks.early_exit import EarlyExitNetwork
    from offramp.authoring.training.run import Run


class Export(Command):
    """Turn a trained network into a bundle, which never stops early until it is calibrated.

    Needs the extra `train`.

    Example: offramp export runs/b-lenet-mnist --out models/b-lenet-mnist
    """

    run: RunArgument
    out: Path = Field(description="directory of the new bundle")
    name: str | None = Field(default=None, description="name of the bundle (default: that of its directory)")
    measure: Measure | None = Field(
        default=None,
        description="measure of confidence; learned and failure need --fit-on (default: the usual one of the task: "
        "max_softmax, least_sure or within_tolerance)",
    )
    fit_on: Path | None = Field(
        default=None,
        description="the data the network was trained on, or the photos it was given as --calibration: fit each exit's "
        "temperature, or its learned or failure confidence, on one half of those that training never saw, so that "
        "confidence matches accuracy",
    )
    skip_unreadable: SkipOption = False
    cache_mb: CacheOption = CACHE_MB
    static: bool = Field(
        default=False, description="the backbone alone, without early exits: the rival to compare with"
    )
    aggregate: bool = Field(
        default=False,
        description="let the last exit answer with the geometric mean of all exits: it costs nothing and is more "
        "accurate where the deeper blocks are weak, especially behind a bottleneck",
    )

    weights: Literal["float32", "float16", "int8"] = Field(
        default="float32",
        description="how weights are stored: float16 halves the bundle's files, int8 quarters them; all is still "
        "computed in float32",
    )

    def execute(self) -> None:
        """Export, prove that the graphs compute what the network does, and print what to do next."""
        from offramp.authoring.export import export_bundle
        from offramp.authoring.training.run import load_network, load_run

        origin, network = load_run(self.run), load_network(self.run)
        network = network.static() if self.static else network
        provenance = origin.provenance
        bundle = export_bundle(
            network,
            self.out,
            name=self.name or self.out.resolve().name,
            labels=origin.labels,
            preprocessing=origin.recipe.preprocessing,
            split_point=_split_point(origin, static=self.static),
            confidences=self._confidences(network, origin),
            aggregates=self.aggregate and not self.static,
            task=origin.recipe.task,
            weights=self.weights,
            provenance=provenance.model_copy(update={"commands": (*provenance.commands, self.as_typed)}),
        )
        _say_if_large(bundle.manifest)
        step = "evaluate" if self.static else "calibrate"
        console.print(
            f"exported {bundle.manifest.bundle_id}; next:",
            f"offramp {step} {self.out} --data PATH",
            sep="\n",
            soft_wrap=True,
        )

    def _confidences(self, network: EarlyExitNetwork, origin: Run) -> list[Confidence]:
        from offramp.authoring.networks.confidence import Confidence, measure_of
        from offramp.authoring.networks.fitted import fitted_confidences
        from offramp.authoring.selection.guarantee import halves
        from offramp.authoring.training.logits import logits_of

        task = origin.recipe.task
        measure = measure_of(task, self.measure)
        if self.fit_on is None:
            if measure in ("learned", "failure"):
                raise ConfigError(
                    f"--measure {self.measure} needs --fit-on DATA, the data the network was trained on"
                )
            return [Confidence(measure, task=task)] * network.num_exits
        reading = Reading(self.skip_unreadable, self.cache_mb, task.kind)
        validation = held_out(origin.provenance.data, origin.recipe.preprocessing, self.fit_on, reading)
        proposing, _ = halves(len(validation))
        validation = validation.take(proposing)
        found = fitted_confidences(
            measure,
            logits_of(network, validation, origin.recipe),
            validation.classes_as(origin.labels),
            task=task,
            aggregates=self.aggregate and not self.static,
        )
        if measure not in ("learned", "failure"):
            console.print("temperatures: " + ", ".join(f"{each.temperature:.3f}" for each in found))
        return found


def _say_if_large(manifest: Manifest) -> None:
    """Say so if the feature takes more than the network's picture itself, which a node then sends instead."""
    if len(manifest.blocks) == 1:
        return
    split_point = manifest.operating_point.split_point
    rule = PayloadRule.at(manifest, split_point)
    if rule.feature_bytes > rule.lossless_bytes:
        console.print(
            f"a feature takes {rule.feature_bytes:,.0f} bytes before block {split_point}, the network's picture "
            f"without loss about {rule.lossless_bytes:,.0f}: `offramp plan` compares all that could be sent on your "
            "photos, `offramp compress` makes the feature smaller",
            soft_wrap=True,
        )


def _split_point(origin: Run, *, static: bool) -> int:
    if static:
        return 2
    return origin.bottleneck.split_point if origin.bottleneck else origin.recipe.split_point
