"""`compress`: puts a bottleneck at the split of a trained network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from offramp.authoring.data.reading import CACHE_MB
from offramp.authoring.data.split import parts_of
from offramp.cli.held_out import held_out, training_part
from offramp.cli.options import (
    CacheOption,
    FeaturesOption,
    RunArgument,
    SkipOption,
    ViewsOption,
    WorkersOption,
    views_of,
)
from offramp.cli.progress import console, log_unless_terminal
from offramp.cli.reading import Reading
from offramp.cli.train import run_of
from offramp.cli.training_data import relabelled
from offramp.command import Command
from offramp.errors import ConfigError

if TYPE_CHECKING:
    from offramp.authoring.data import LabelledImages
    from offramp.authoring.networks.bottleneck import BottleneckSpec
    from offramp.authoring.training.run import Run

# However the network was trained, this is how its bottleneck is.
_AS_COMPRESSED: Mapping[str, Any] = {
    "optimizer": "sgd",
    "schedule": "one_cycle",
    "warmup": None,
    "backbone_rate": 1.0,
    "layer_decay": 1.0,
    "ema": None,
    "keep": "last",
    "patience": None,
}


class Compress(Command):
    """Make the feature between two tiers small: round it, or learn a bottleneck.

    Needs the extra `train`. The blocks before the split stay as they are. First only the bottleneck learns, to
    reproduce its input, with a learning rate of its own. Then the blocks after the split learn together with it, taught
    by the original network or by a better one. At the end the last exit is compared with the original's on held-out
    samples: if it lost more than --max-drop, the command fails, but leaves the run for you to look at.

    Example: offramp compress runs/b-alexnet --data data/cifar10.zip --bytes 128 --out runs/narrow
    """

    run: RunArgument
    data: Path = Field(description="the data the network was trained on")
    out: Path = Field(description="directory of the new run")
    max_bytes: int | None = Field(
        default=None,
        alias="bytes",
        ge=1,
        description="learn an encoder and a decoder whose code takes at most this many bytes; without this option "
        "every value of the feature is kept and only rounded",
    )
    bits: float = Field(
        default=2,
        ge=1,
        le=8,
        description="bits per value of the code, which then has 2 to the power of this many levels",
    )
    split_point: int | None = Field(
        default=None, ge=2, description="first block of the next tier (default: the recipe's)"
    )
    epochs: int = Field(default=10, ge=1, description="passes over the data in each of the two phases")
    learning_rate: float = Field(
        default=0.03, gt=0, description="highest learning rate of the blocks after the split"
    )
    max_drop: float = Field(
        default=5, ge=0, description="percentage points of accuracy that the last exit may lose at most"
    )
    teacher: Path | None = Field(
        default=None,
        description="run of any recipe, whose last exit teaches (default: the original network)",
    )
    alpha: float = Field(default=0.9, ge=0, le=1, description="the teacher's share of the loss")
    temperature: float = Field(
        default=4.0, gt=0, description="temperature T that softens both the teacher and the student"
    )
    calibration: Path | None = Field(
        default=None, description="the photos that `train` was given as --calibration, if any"
    )
    views: ViewsOption = None
    features: FeaturesOption = None
    skip_unreadable: SkipOption = False
    cache_mb: CacheOption = CACHE_MB
    workers: WorkersOption = None
    resume: bool = Field(default=False, description="continue from the run's last checkpoint")

    def execute(self) -> None:
        """Train the bottleneck, and print what to do next."""
        from offramp.authoring.training.run import load_run
        from offramp.authoring.training.train import Machines, train

        origin = load_run(self.run)
        if origin.bottleneck:
            raise ConfigError(f"{self.run} has a bottleneck already; compress the run it was made from")
        spec = self._spec(origin)
        images, calibration = self._images(origin)
        log_unless_terminal()
        train(
            relabelled(images, origin.labels),
            self._narrowed(origin, spec),
            self.out,
            calibration=calibration,
            resume=self.resume,
            machines=Machines(workers=self.workers),
            features=self.features,
        )
        self._compare(parts_of(images, origin.provenance.data, calibration).validation, origin)
        console.print("compressed; next:", f"offramp export {self.out} --out DIR", sep="\n", soft_wrap=True)

    def _narrowed(self, origin: Run, spec: BottleneckSpec) -> Run:
        provenance = origin.provenance.model_copy(
            update={"commands": (*origin.provenance.commands, self.as_typed), "epochs": self.epochs}
        )
        return run_of(
            labels=origin.labels,
            provenance=provenance,
            recipe=origin.recipe.changed(
                **_AS_COMPRESSED, epochs=self.epochs, learning_rate=self.learning_rate
            ),
            regime="bottleneck",
            bottleneck=spec,
            start=str(self.run),
            teacher=self.teacher and str(self.teacher),
            alpha=self.alpha if origin.provenance.data.labelled else 1.0,
            temperature=self.temperature,
            views=views_of(self.views, self.features),
        )

    def _compare(self, held_out: LabelledImages, origin: Run) -> None:
        """Print what it did to the network.

        Raises:
            ConfigError: it lost too much.
        """
        from offramp.authoring.training.keeping import judging_part
        from offramp.authoring.training.narrowing import measure_bottleneck
        from offramp.authoring.training.run import load_network

        images = judging_part(held_out)
        labelled = origin.provenance.data.labelled
        found = measure_bottleneck(
            load_network(self.run), load_network(self.out), images, origin.recipe, labelled=labelled
        )
        accuracy = "accuracy" if labelled else "agreement with the original"
        console.print(
            f"{found.bytes_before:,} -> {found.bytes_after:,.0f} bytes per sample; {accuracy} of the last exit "
            f"{found.before:.1%} -> {found.after:.1%}, on {found.samples:,} held-out samples",
            highlight=False,
            soft_wrap=True,
        )
        if found.drop > self.max_drop:
            raise ConfigError(
                f"the last exit lost {found.drop:.1f} percentage points, more than --max-drop {self.max_drop:g}; give "
                f"more --bytes, more --epochs or another --learning-rate, or allow more; the run is in {self.out}"
            )

    def _images(self, origin: Run) -> tuple[LabelledImages, LabelledImages | None]:
        """The training part, and the samples that thresholds are chosen on if they are a part of their own."""
        reading = Reading(self.skip_unreadable, self.cache_mb, origin.recipe.task.kind)
        data = origin.provenance.data
        preprocessing = origin.recipe.preprocessing
        images = training_part(data, preprocessing, self.data, reading)
        if data.calibration is None:
            return images, None
        calibration = held_out(data, preprocessing, self.calibration or self.data, reading)
        return images, relabelled(calibration, origin.labels)

    def _spec(self, origin: Run) -> BottleneckSpec:
        from offramp.authoring.networks.bottleneck import BottleneckSpec, spec_for
        from offramp.authoring.training.run import feature_shape, load_network

        split_point = self.split_point or origin.recipe.split_point
        shape = feature_shape(load_network(self.run), origin.recipe, split_point)
        levels = round(2**self.bits)
        if self.max_bytes is None:
            return BottleneckSpec(split_point=split_point, levels=levels)
        return spec_for(shape, split_point=split_point, max_bytes=self.max_bytes, levels=levels)
