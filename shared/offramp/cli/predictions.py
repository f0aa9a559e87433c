"""Every exit's predictions, with a progress bar, and written as a table of comma-separated values."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from offramp.bundle import Bundle, Manifest
from offramp.bundle.manifest import Payload
from offramp.cli.progress import console, progress
from offramp.engine.runtime import Runtime

if TYPE_CHECKING:
    from offramp.authoring.data import LabelledImages
    from offramp.authoring.evaluation.predictions import ExitPredictions


def predictions_of(
    bundle: Bundle, images: LabelledImages, *, what: str, runtime: Runtime, payload: Payload | None
) -> ExitPredictions:
    """Predict with every exit, counting what would be sent; `what` names the images on the progress bar."""
    from offramp.authoring.evaluation.predictions import predict_every_exit

    with progress(what, len(images)) as advance:
        return predict_every_exit(
            bundle,
            images.pixels,
            runtime=runtime,
            file_bytes=images.file_bytes,
            payload=payload,
            advance=advance,
        )


def write_predictions(
    path: Path,
    manifest: Manifest,
    images: LabelledImages,
    found: ExitPredictions,
    taken_N: NDArray[np.int64],
) -> None:
    """Write the truth, the answer, its exit and its confidence, one line for each image.

    Args:
        path: of the file.
        manifest: of the bundle.
        images: that were evaluated.
        found: what every exit answered.
        taken_N: index of the exit at which each image leaves.
    """
    from offramp.authoring.evaluation.judging import in_words

    truth_N, said_NE = images.classes_as(manifest.labels), found.said
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "truth", "label", "exit", "confidence"])
        for n, exit in enumerate(taken_N):
            said, truth = in_words(manifest, said_NE[n, exit]), in_words(manifest, truth_N[n])
            confidence = f"{found.confidence[n, exit]:.9g}"
            writer.writerow([images.sources[n], truth, said, exit + 1, confidence])
    console.print(f"predictions: {path}")
