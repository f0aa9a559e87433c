"""What guards find of images from elsewhere, next to max softmax and energy, and what they cost.

    python -m benchmarks.guard models/b-lite0-grocery --data data/grocery.zip --strangers data/cifar10.zip

The guards are fitted as `offramp guard` does it. The limits of the other scores are set in the same way, on the same
held-out samples. False alarms are counted on the test part.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from rich.console import Console

from benchmarks.confidence.logits import logits_of
from benchmarks.gallery.page import Sheet
from benchmarks.guard.cost import Cost, cost_of
from benchmarks.guard.strangers import as_pixels, noise, screenshots
from offramp.authoring.data.photos import Pixels, batches
from offramp.authoring.guard.fitting import add_guards
from offramp.authoring.guard.gaussian import limit_for
from offramp.bundle import Bundle, load_bundle, write_bundle
from offramp.cli.held_out import photos_for
from offramp.cli.options import BundleArgument
from offramp.cli.progress import progress
from offramp.cli.reading import Reading
from offramp.command import Command, run_command
from offramp.engine.runtime import load_blocks

_FEW = 500
_SERVED = "guard, as served"
_Scores = Mapping[str, NDArray[np.float64]]


class MeasureGuards(Command):
    """Measure which share of strange images guards find, how often they are wrong, and what they cost.

    Example: python -m benchmarks.guard models/b-lenet-fashion --data data/fashion-mnist --strangers data/mnist
    """

    bundle: BundleArgument
    data: Path = Field(description="the data the network was trained on, with its test part")
    strangers: list[Path] = Field(
        default=[], description="other data sets; 500 images of the test part of each"
    )
    false_alarms: float = Field(default=0.01, gt=0, lt=1, description="share of false alarms to allow")
    page: Path | None = Field(default=None, description="also write this Markdown file")

    def execute(self) -> None:
        """Fit, look at everything, and print the page."""
        loaded, reading = load_bundle(self.bundle), Reading()
        preprocessing = loaded.manifest.preprocessing
        training, familiar = photos_for(loaded, self.data, self.data, reading)
        others: dict[str, Pixels] = {
            f"{_few(len(images))} of {path.name}": images.take(_spaced(len(images))).pixels
            for path in self.strangers
            for images in (reading.part(path, "test", preprocessing),)
        }
        shots = as_pixels(screenshots(), preprocessing)
        others |= {f"{len(shots)} screenshots": shots, "noise": noise(preprocessing)}
        test = reading.part(self.data, "test", preprocessing).pixels
        with TemporaryDirectory() as folder, progress("photos", len(training) + len(familiar)) as advance:
            found = add_guards(
                loaded, training.pixels, familiar.pixels, false_alarms=self.false_alarms, advance=advance
            )
            guarded = write_bundle(Path(folder) / "guarded", found.manifest, found.graphs)
        sets = {"held-out": familiar.pixels, "test": test, **others}
        with progress("images", sum(map(len, sets.values()))) as advance:
            scores = {name: _scores(loaded, guarded, pixels, advance) for name, pixels in sets.items()}
        sheet = self._sheet(scores, len(test))
        text = _intro(loaded, len(familiar), len(test)) + sheet.as_markdown()
        text += f"\n{_in_words(cost_of(loaded, guarded))}\n"
        Console().print(text, highlight=False, markup=False, soft_wrap=True)
        if self.page:
            self.page.write_text(text, encoding="utf-8")

    def _sheet(self, scores: Mapping[str, _Scores], num_test: int) -> Sheet:
        rows = []
        for name, held_out_N in scores["held-out"].items():
            limit = 1.0 if name == _SERVED else limit_for(self.false_alarms, held_out_N)
            shares = [float((of[name] > limit).mean()) for part, of in scores.items() if part != "held-out"]
            rows.append((name, f"{shares[0]:.2%}", *(f"{share:.1%}" for share in shares[1:])))
        strangers = [part for part in scores if part not in ("held-out", "test")]
        return Sheet("Share found", ("score", f"false alarms on {num_test:,} test images", *strangers), rows)


def _few(available: int) -> int:
    return min(_FEW, available)


def _spaced(available: int) -> NDArray[np.int64]:
    return np.linspace(0, available - 1, _few(available)).astype(np.int64)


def _scores(bundle: Bundle, guarded: Bundle, pixels: Pixels, advance: object) -> _Scores:
    """Scores (N,) that are higher for what is stranger, by name: at each early exit, and of the guard as a whole."""
    assert callable(advance)
    logits_NEK = logits_of(bundle, pixels, advance).astype(np.float64)
    energy_NE = np.logaddexp.reduce(logits_NEK, axis=2)
    sure_NE = np.exp(logits_NEK.max(axis=2) - energy_NE)
    distance_NE = _distances(guarded, pixels)
    found = {}
    for exit in range(distance_NE.shape[1]):
        found[f"max softmax, exit {exit + 1}"] = -sure_NE[:, exit]
        found[f"energy, exit {exit + 1}"] = -energy_NE[:, exit]
        found[f"guard, exit {exit + 1}"] = distance_NE[:, exit]
    return found | {_SERVED: distance_NE.max(axis=1)}


def _distances(guarded: Bundle, pixels: Pixels) -> NDArray[np.float64]:
    """What the guard of each early exit says (N, E - 1), one image at a time, as a node runs them."""
    last = max(
        block.number for block in guarded.manifest.blocks if block.exit is not None and block.exit.guard
    )
    blocks = load_blocks(guarded, 1, last)
    found = []
    for photos in batches(pixels):
        for photo in photos:
            batch, row = photo[np.newaxis], []
            for block in blocks:
                output = block.run(batch)
                batch = output.feature
                if output.distance is not None:
                    row.append(float(output.distance[0]))
            found.append(row)
    return np.array(found)


def _intro(bundle: Bundle, held_out: int, test: int) -> str:
    return (
        f"# The guard of {bundle.manifest.name}\n\n"
        f"Made by `python -m benchmarks.guard`. Every limit was set on {held_out:,} held-out samples, for the same\n"
        f"share of false alarms; {test:,} test images say how many there are. The guard as served is that of all\n"
        "early exits together: it calls an image unfamiliar if any of them does.\n\n"
    )


def _in_words(cost: Cost) -> str:
    return (
        f"The guards take {cost.macs_share:.2%} more multiplications on the edge (blocks 1 to {cost.last_block}) and\n"
        f"{cost.ms_share:.1%} more time: {cost.guarded_ms:.3f} ms instead of {cost.plain_ms:.3f}, medians of\n"
        f"{cost.rounds:,} rounds in turn, one image at a time, ONNX Runtime with one thread."
    )


if __name__ == "__main__":
    run_command(MeasureGuards, sys.argv[1:], program="python -m benchmarks.guard")
