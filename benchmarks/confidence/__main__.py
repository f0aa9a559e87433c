"""Compare confidence measures: how well they rank an exit's answers, and what work they save.

    python -m benchmarks.confidence models/b-alexnet-cifar10 --data data/cifar10.zip --page FILE

Patience has no thresholds: it stops when a number of exits agree.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pydantic import Field
from rich.console import Console

from benchmarks.confidence.logits import logits_of
from benchmarks.confidence.measures import Part, compared, part_of
from benchmarks.confidence.page import page_of, plot
from offramp.authoring.data import LabelledImages
from offramp.bundle import Bundle, load_bundle
from offramp.cli.held_out import held_out, origin_of
from offramp.cli.options import BundleArgument
from offramp.cli.progress import progress
from offramp.cli.reading import Reading
from offramp.command import Command, run_command


class CompareMeasures(Command):
    """Compare all confidence measures on one bundle: AUROC, and multiplications at equal accuracy.

    Example: python -m benchmarks.confidence models/b-alexnet-cifar10 --data data/cifar10.zip
    """

    bundle: BundleArgument
    data: Path = Field(description="the data the network was trained on, with its test part")
    page: Path | None = Field(
        default=None, description="also write this Markdown file, and its plot next to it"
    )

    def execute(self) -> None:
        """Predict, fit, search, and print the page."""
        loaded = load_bundle(self.bundle)
        manifest, reading = loaded.manifest, Reading()
        origin = origin_of(manifest, self.bundle)
        unseen = _said(loaded, held_out(origin, manifest.preprocessing, self.data, reading))
        test = _said(loaded, reading.part(self.data, "test", manifest.preprocessing))
        found = compared(manifest, unseen, test)
        text = page_of(manifest, found, unseen, test)
        Console().print(text, highlight=False, markup=False, soft_wrap=True)
        if self.page:
            plot(found, manifest, self.page.with_suffix(".svg"))
            picture = f"![accuracy against multiplications]({self.page.stem}.svg)"
            self.page.write_text(f"{text}\n{picture}\n", encoding="utf-8")


def _said(bundle: Bundle, images: LabelledImages) -> Part:
    manifest = bundle.manifest
    with progress("images", len(images)) as advance:
        logits = logits_of(bundle, images.pixels, advance)
    return part_of(logits, images.classes_as(manifest.labels), aggregates=manifest.aggregates)


if __name__ == "__main__":
    run_command(CompareMeasures, sys.argv[1:], program="python -m benchmarks.confidence")
