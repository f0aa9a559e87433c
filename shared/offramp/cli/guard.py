"""`guard`: teaches the early exits of a bundle which photos are unlike those it knows."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from offramp.authoring.data.reading import CACHE_MB
from offramp.bundle import load_bundle, write_bundle
from offramp.cli.held_out import photos_for, signed
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


class GuardExits(Command):
    """Teach the early exits which photos are unlike those they know, and write a new bundle.

    An exit never answers early what its guard finds unfamiliar, unless its θ is 0; and whoever answers says so. Choose
    thresholds again afterwards. Needs the extra `train`.

    Example: offramp guard models/b-lenet-fashion --data data/fashion-mnist --out models/guarded
    """

    bundle: BundleArgument
    data: TrainedOnOption
    out: Path = Field(description="directory of the new bundle")
    calibration: CalibrationOption = None
    false_alarms: float = Field(
        default=0.01,
        gt=0,
        lt=1,
        description="largest share of photos like the held-out ones that any exit finds unfamiliar",
    )
    skip_unreadable: SkipOption = False
    cache_mb: CacheOption = CACHE_MB

    def execute(self) -> None:
        """Fit the guards, write the bundle, and print what they cost and what to do next."""
        from offramp.authoring.guard.fitting import add_guards

        loaded = load_bundle(self.bundle)
        reading = Reading(self.skip_unreadable, self.cache_mb, loaded.manifest.task.kind)
        training, familiar = photos_for(loaded, self.data, self.calibration or self.data, reading)
        with progress("photos", len(training) + len(familiar)) as advance:
            found = add_guards(
                loaded,
                training.pixels,
                familiar.pixels,
                false_alarms=self.false_alarms,
                advance=advance,
            )
        written = write_bundle(self.out, signed(found.manifest, self.as_typed), found.graphs).manifest
        macs = sum(exit.guard.macs for exit in written.exits if exit.guard)
        console.print(
            f"guarded {written.bundle_id}: {macs:,} multiplications more, {macs / written.backbone_macs:.2%} of the "
            "backbone; next:",
            f"offramp calibrate {self.out} --data PATH",
            sep="\n",
            soft_wrap=True,
            highlight=False,
        )
