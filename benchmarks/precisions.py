"""What a bundle answers in each precision and on each runtime, beside float32 on ONNX Runtime, on test photos.

    python -m benchmarks.precisions models/b-alexnet-cifar10 models/b-alexnet-cifar10-int8 --data data/cifar10.zip

One photo at a time, as a node does. Run it on an otherwise idle machine if the milliseconds are to mean anything.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic_settings import CliPositionalArg
from rich.console import Console

from benchmarks.gallery.page import Sheet
from benchmarks.serving.page import machine
from offramp.authoring.data import LabelledImages, load_images
from offramp.authoring.evaluation.predictions import ExitPredictions, predict_every_exit
from offramp.bundle import Bundle, load_bundle
from offramp.cli.progress import progress
from offramp.command import Command, run_command
from offramp.engine.runtime import Runtime, load_blocks

_TIMED = 200
_COLUMNS = (
    "bundle",
    "precision",
    "runtime",
    "every exit alone",
    "labels as in float32",
    "at its point",
    "left at exit 1 / 2 / …",
    "certificate",
    "ms through all blocks",
)


class Precisions(Command):
    """Compare bundles of the same network, the first of which is in float32; needs the extra train.

    Example: python -m benchmarks.precisions models/b-alexnet-cifar10 models/b-alexnet-cifar10-int8 --data DATA
    """

    bundles: CliPositionalArg[list[Path]] = Field(description="directories of bundles, that in float32 first")
    data: Path = Field(description="data with a test part, which the network was never trained on")
    runtimes: list[Runtime] = Field(
        default=["onnx", "openvino"], description="runtimes to try; may be given several times"
    )
    photos: int = Field(default=2000, ge=1, description="test photos, spread over all of them")
    page: Path | None = Field(default=None, description="also write this Markdown file")

    def execute(self) -> None:
        """Answer all photos in every way, and print the table."""
        loaded = [load_bundle(path) for path in self.bundles]
        test = load_images(self.data, "test", loaded[0].manifest.preprocessing)
        test = test.take(np.unique(np.linspace(0, len(test) - 1, self.photos).astype(np.int64)))
        ways = [(bundle, runtime) for bundle in loaded for runtime in self.runtimes]
        found = []
        with progress("photos", len(ways) * len(test)) as advance:
            for bundle, runtime in ways:
                found.append(predict_every_exit(bundle, test.pixels, runtime=runtime, advance=advance))
        rows = [
            _row(bundle, runtime, each, found[0], test)
            for (bundle, runtime), each in zip(ways, found, strict=True)
        ]
        sheet = Sheet(f"{loaded[0].manifest.name}, {len(test):,} test photos", _COLUMNS, rows)
        text = f"# Precisions\n\nMade by `python -m benchmarks.precisions`.\n\n{machine()}\n\n{sheet.as_markdown()}"
        Console().print(text, highlight=False, markup=False, soft_wrap=True)
        if self.page:
            self.page.write_text(text, encoding="utf-8")


def _row(
    bundle: Bundle, runtime: Runtime, found: ExitPredictions, plain: ExitPredictions, test: LabelledImages
) -> tuple[str, ...]:
    manifest, point = bundle.manifest, bundle.manifest.operating_point
    truth_N = test.classes_as(manifest.labels)
    table = found.against(truth_N)
    taken_N = table.exit_taken(point.thetas)
    certificates = [
        f"{each.certificate.risk} ≤ {each.certificate.epsilon:g}"
        for each in manifest.operating_points
        if each.certificate
    ]
    rates = np.bincount(taken_N, minlength=manifest.num_exits) / len(taken_N)
    return (
        manifest.name,
        manifest.precision,
        runtime,
        _shares(table.correct.mean(axis=0)),
        _shares((found.said == plain.said).mean(axis=0)),
        f"{point.name}: {table.correct_at(taken_N).mean():.2%}",
        _shares(rates),
        ", ".join(certificates) or "none",
        f"{_milliseconds(bundle, runtime, test.pixels[:_TIMED]):.3f}",
    )


def _shares(values: NDArray[np.float64]) -> str:
    return " / ".join(f"{100 * value:.1f}" for value in values) + " %"


def _milliseconds(bundle: Bundle, runtime: Runtime, pixels: Sequence[NDArray[np.uint8]]) -> float:
    """Median time of one photo through all blocks, on one thread."""
    blocks = load_blocks(bundle, 1, len(bundle.manifest.blocks), runtime=runtime)
    times = []
    for photo in pixels:
        batch: Any = photo[np.newaxis]
        begun = perf_counter()
        for block in blocks:
            batch = block.run(batch).feature
        times.append(perf_counter() - begun)
    return 1000 * median(times)


if __name__ == "__main__":
    run_command(Precisions, sys.argv[1:], program="python -m benchmarks.precisions")
