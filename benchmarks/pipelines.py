"""Compares a network's accuracy behind its own pipeline with that through Offramp: `python -m benchmarks.pipelines`.

The pipelines of torchvision and timm are written out in plain Pillow calls, so neither has to be installed.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field
from rich.console import Console
from rich.table import Table

from offramp.authoring.data import open_data
from offramp.bundle import Bundle, Preprocessing, load_bundle
from offramp.cli.options import BundleArgument
from offramp.cli.progress import progress
from offramp.command import Command, run_command
from offramp.engine.images import decode_image
from offramp.engine.runtime import load_blocks
from offramp.errors import DataError

_MEAN, _STD, _SIDE = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224

_Pipeline = Callable[[Image.Image], Image.Image]


def _cropped(shorter: int, how: Image.Resampling) -> _Pipeline:
    def pixels(image: Image.Image) -> Image.Image:
        # torchvision's Resize and CenterCrop, as its documentation defines them; timm composes the same two.
        width, height = image.size
        longer = int(shorter * max(width, height) / min(width, height))
        image = image.resize((shorter, longer) if width <= height else (longer, shorter), how)
        left, top = (round((side - _SIDE) / 2) for side in image.size)
        return image.crop((left, top, left + _SIDE, top + _SIDE))

    return pixels


_PIPELINES: Mapping[str, tuple[Preprocessing, _Pipeline]] = {
    "torchvision, 256/224 bilinear": (
        Preprocessing.from_torchvision(
            SimpleNamespace(
                crop_size=[_SIDE], resize_size=[256], mean=_MEAN, std=_STD, interpolation="bilinear"
            )
        ),
        _cropped(256, Image.Resampling.BILINEAR),
    ),
    "timm, bicubic, crop_pct 0.875": (
        Preprocessing.from_timm(
            {"input_size": (3, _SIDE, _SIDE), "interpolation": "bicubic", "crop_pct": 0.875}
        ),
        _cropped(256, Image.Resampling.BICUBIC),
    ),
    "stretch, bilinear": (
        Preprocessing(height=_SIDE, width=_SIDE, mode="RGB", mean=_MEAN, std=_STD, jpeg_margin=0),
        lambda image: image.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR),
    ),
}


class Pipelines(Command):
    """Run a network of 224 pixels on test photos, once behind each pipeline and once through Offramp.

    Example: python -m benchmarks.pipelines models/b-lite0-grocery --data data/grocery.zip
    """

    bundle: BundleArgument
    data: Path = Field(description="image folder, or a zip or tar of one")
    as_json: bool = Field(default=False, alias="json", description="print one JSON object instead of a table")

    def execute(self) -> None:
        """Compare, and show one row for each pipeline."""
        network = _Network(load_bundle(self.bundle))
        listing = open_data(self.data).find("test")
        if listing is None:
            raise DataError(f"{self.data} has no photos in files; give an image folder or an archive of one")
        classes = network.numbered(listing.classes, listing.labels)
        rows = {name: dict[str, float]() for name in _PIPELINES}
        right = {name: np.zeros(2) for name in _PIPELINES}
        with progress("photos", len(listing)) as advance:
            for name_of_file, number in zip(listing.names, classes, strict=True):
                data = listing.container.read(name_of_file)
                for name, (preprocessing, pipeline) in _PIPELINES.items():
                    own = np.asarray(pipeline(Image.open(io.BytesIO(data)).convert("RGB")))
                    ours = decode_image(data, preprocessing)
                    apart = np.abs(own.astype(np.int16) - ours)
                    row = rows[name]
                    row["largest difference, levels"] = max(
                        row.get("largest difference, levels", 0), int(apart.max())
                    )
                    row["values that differ"] = row.get("values that differ", 0) + float((apart > 0).mean())
                    right[name] += [network.answer(pixels) == number for pixels in (own, ours)]
                advance(1)
        for name, row in rows.items():
            row["values that differ"] /= len(classes)
            row["own accuracy"], row["through Offramp"] = (right[name] / len(classes)).tolist()
        self._show(rows, len(classes))

    def _show(self, rows: Mapping[str, Mapping[str, float]], photos: int) -> None:
        if self.as_json:
            print(json.dumps({"photos": photos, **rows}))
            return
        table = Table(title=f"{photos:,} photos, every one to the last exit")
        table.add_column("pipeline")
        for column in next(iter(rows.values())):
            table.add_column(column, justify="right")
        for name, row in rows.items():
            levels, values, *accuracies = row.values()
            table.add_row(name, f"{levels:.0f}", f"{values:.2e}", *(f"{each:.2%}" for each in accuracies))
        Console().print(table)


class _Network:
    """A bundle's network, run to its last exit."""

    def __init__(self, bundle: Bundle) -> None:
        self._labels = bundle.manifest.labels
        self._blocks = load_blocks(bundle, 1, len(bundle.manifest.blocks))

    def numbered(self, classes: NDArray[np.int64], labels: tuple[str, ...] | None) -> NDArray[np.int64]:
        if labels is None:
            return classes
        return np.array([self._labels.index(label) for label in labels], dtype=np.int64)[classes]

    def answer(self, pixels: NDArray[np.uint8]) -> int:
        batch, probabilities = pixels[np.newaxis], None
        for block in self._blocks:
            output = block.run(batch)
            probabilities = output.probabilities
            if output.feature is not None:
                batch = output.feature
        assert probabilities is not None
        return int(probabilities.argmax())


if __name__ == "__main__":
    run_command(Pipelines, sys.argv[1:], program="python -m benchmarks.pipelines")
