"""`quantise`: turns a bundle into another one that computes in int8."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field
from rich.table import Table

from offramp.authoring.data.reading import CACHE_MB
from offramp.bundle import load_bundle, write_bundle
from offramp.bundle.preprocessing import Resizer
from offramp.cli.held_out import photos_for, read_as, signed
from offramp.cli.options import (
    BundleArgument,
    CacheOption,
    CalibrationOption,
    SkipOption,
    TrainedOnOption,
)
from offramp.cli.progress import console, progress
from offramp.cli.reading import Reading
from offramp.command import Command

if TYPE_CHECKING:
    from offramp.authoring.quantising.layers import Chosen

_COMPARED = 512


class Quantise(Command):
    """Let a bundle compute in int8, layer by layer where that pays, and write a new bundle.

    Run it on the kind of machine that will serve the bundle: a layer stays in float32 where int8 is slower there.
    Choose thresholds again afterwards, and evaluate on that machine. Needs the extra `train`.

    Example: offramp quantise models/b-alexnet-cifar10 --data data/cifar10.zip --out models/b-alexnet-int8
    """

    bundle: BundleArgument
    data: TrainedOnOption
    out: Path = Field(description="directory of the new bundle")
    calibration: CalibrationOption = None
    photos: int = Field(
        default=512, ge=100, description="training photos that the ranges of tensors come from"
    )
    most_change: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="how much an output of a block may change, relative to its size; beyond it, the layers that harm "
        "most stay in float32",
    )
    all_layers: bool = Field(
        default=False, description="do not time layers on this machine: put all that can be into int8"
    )
    resizer: Resizer | None = Field(
        default=None, description="library that resizes photos from now on (default: as in the bundle given)"
    )
    skip_unreadable: SkipOption = False
    cache_mb: CacheOption = CACHE_MB

    def execute(self) -> None:
        """Quantise, write the bundle, and print what was gained and what to do next."""
        from offramp.authoring.quantising.quantise import quantise

        loaded = load_bundle(self.bundle)
        calibration = self.calibration or self.data
        reading = Reading(self.skip_unreadable, self.cache_mb, loaded.manifest.task.kind)
        if self.resizer:
            preprocessing = loaded.manifest.preprocessing.resized_by(self.resizer)
            loaded = read_as(preprocessing, loaded, self.data, calibration, reading)
        training, unseen = photos_for(loaded, self.data, calibration, reading, most=self.photos)
        with progress("blocks", len(loaded.manifest.blocks)) as advance:
            found = quantise(
                loaded,
                training.pixels[:],
                unseen.pixels[:_COMPARED],
                most_change=self.most_change,
                timed=not self.all_layers,
                advance=advance,
            )
        written = write_bundle(self.out, signed(found.manifest, self.as_typed), found.graphs).manifest
        console.print(_table(found.chosen))
        console.print(
            f"quantised {written.bundle_id}; next:",
            f"offramp calibrate {self.out} --data PATH",
            sep="\n",
            soft_wrap=True,
            highlight=False,
        )


def _table(chosen: Sequence[Chosen]) -> Table:
    table = Table(title="blocks in int8, for one photo on one thread of this machine")
    for column in ("block", "layers in int8", "float32, µs", "now, µs", "change of its outputs"):
        table.add_column(column, justify="right")
    for number, block in enumerate(chosen, start=1):
        table.add_row(
            str(number),
            f"{block.layers - block.left} of {block.layers}",
            f"{block.float_us:.0f}",
            f"{block.us:.0f}",
            f"{block.change:.1%}",
        )
    return table
