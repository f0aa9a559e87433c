"""`guard`: teaches the early exits of a bundle which photos are unlike those it knows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field

from offramp.authoring.data import LabelledImages
from offramp.authoring.data.reading import CACHE_MB
from offramp.authoring.data.split import split_train
from offramp.bundle import Bundle, Manifest, load_bundle, write_bundle
from offramp.cli.held_out import held_out, origin_of, training_part
from offramp.cli.options import BundleArgument, CacheOption, SkipOption
from offramp.cli.progress import console, progress
from offramp.cli.reading import Reading
from offramp.command import Command

_MOST = 10_000  # training photos that are looked at; more would hardly move a mean or a variance


class GuardExits(Command):
    """Teach the early exits which photos are unlike those they know, and write a new bundle.

    An exit never answers early what its guard finds unfamiliar, unless its θ is 0; and whoever answers says so. Choose
    thresholds again afterwards. Needs the extra `train`.

    Example: offramp guard models/b-lenet-fashion --data data/fashion-mnist --out models/guarded
    """

    bundle: BundleArgument
    data: Path = Field(description="the data the network was trained on")
    out: Path = Field(description="directory of the new bundle")
    calibration: Path | None = Field(
        default=None,
        description="the photos that thresholds are chosen on, if they are not part of --data",
    )
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
        written = write_bundle(self.out, self._signed(found.manifest), found.graphs).manifest
        macs = sum(exit.guard.macs for exit in written.exits if exit.guard)
        console.print(
            f"guarded {written.bundle_id}: {macs:,} multiplications more, {macs / written.backbone_macs:.2%} of the "
            "backbone; next:",
            f"offramp calibrate {self.out} --data PATH",
            sep="\n",
            soft_wrap=True,
            highlight=False,
        )

    def _signed(self, manifest: Manifest) -> Manifest:
        provenance = manifest.provenance
        assert provenance is not None, "its origin was read"
        kept = (each for each in provenance.commands if not each.startswith("offramp calibrate "))
        return manifest.model_copy(
            update={"provenance": provenance.model_copy(update={"commands": (*kept, self.as_typed)})}
        )


def photos_for(
    bundle: Bundle, data: Path, calibration: Path, reading: Reading
) -> tuple[LabelledImages, LabelledImages]:
    """Photos that a network was trained on, and those held-out ones that no guarantee is tested on.

    Args:
        bundle: of the network.
        data: what it was trained on.
        calibration: the photos that thresholds are chosen on, or the data that they belong to.
        reading: how to read them.

    Raises:
        ConfigError: the bundle does not say what it was trained on.
        DataError: this is other data.
    """
    from offramp.authoring.selection.guarantee import halves

    origin, preprocessing = origin_of(bundle.manifest, bundle.directory), bundle.manifest.preprocessing
    training = training_part(origin, preprocessing, data, reading)
    if origin.split is not None:
        sides = split_train(training, origin.split)
        training, unseen = sides.train, sides.validation
    else:
        unseen = held_out(origin, preprocessing, calibration, reading)
    if len(training) > _MOST:
        training = training.take(np.linspace(0, len(training) - 1, _MOST).astype(np.int64))
    return training, unseen.take(halves(len(unseen))[0])
