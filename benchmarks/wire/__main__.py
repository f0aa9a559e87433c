"""Bytes and accuracy of offloaded features, compared with sending the photo.

    python -m benchmarks.wire models/b-alexnet-cifar10 --wide runs/bundles/b-alexnet-cifar10 --data data/cifar10.zip

The photo is sent with the codecs that a gateway has; each is judged by the accuracy of the full network on its photos.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
from pydantic import Field
from pydantic_settings import CliPositionalArg
from rich.console import Console

from benchmarks.wire.page import Findings, page_of, plot_of
from benchmarks.wire.photos import num_codecs, photo_points
from benchmarks.wire.socket import count_on_socket
from benchmarks.wire.timing import coding_time
from offramp.authoring.data import LabelledImages, load_images
from offramp.authoring.evaluation.predictions import predict_every_exit
from offramp.authoring.evaluation.report import Report, report
from offramp.bundle import Bundle, load_bundle
from offramp.cli.progress import progress
from offramp.command import Command, run_command

_TIMED = 500
_ON_SOCKET = 300


class Wire(Command):
    """Compare bytes and accuracy of feature and photo; measure bytes on the socket and the cost of encoding.

    Example: python -m benchmarks.wire models/b-lenet-mnist --wide runs/bundles/b-lenet-mnist --data data/mnist
    """

    bundle: CliPositionalArg[Path] = Field(description="directory of a bundle with a bottleneck")
    wide: Path = Field(description="directory of the same network's bundle without a bottleneck")
    data: Path = Field(description="their test data")
    photos: int = Field(default=2000, ge=1, description="test photos to send through every codec")
    as_json: bool = Field(default=False, alias="json", description="print one JSON object")
    page: Path | None = Field(
        default=None, description="also write this Markdown file, and its plot next to it"
    )

    def execute(self) -> None:
        """Measure, then print the page or its figures."""
        found = self._findings()
        text = page_of(found, self.data.name)
        if self.as_json:
            print(json.dumps(asdict(found), default=lambda one: one.model_dump()))
        else:
            Console().print(text, highlight=False, markup=False, soft_wrap=True)
        if self.page:
            plot_of(found, self.page.with_suffix(".svg"))
            plot = f"![bytes against accuracy]({self.page.stem}.svg)"
            self.page.write_text(f"{text}\n{plot}\n", encoding="utf-8")

    def _findings(self) -> Findings:
        narrow_bundle, wide_bundle = load_bundle(self.bundle), load_bundle(self.wide)
        manifest = wide_bundle.manifest
        images = load_images(self.data, "test", manifest.preprocessing)
        count = min(self.photos, len(images))
        few = images.take(np.linspace(0, len(images) - 1, count).astype(np.int64))
        with progress("codecs", num_codecs()) as advance:
            points = photo_points(wide_bundle, few, few.classes_as(manifest.labels), advance)
        return Findings(
            photos=points,
            few=len(few),
            narrow_few=_evaluated(narrow_bundle, few),
            narrow=_evaluated(narrow_bundle, images),
            wide=_evaluated(wide_bundle, images),
            socket=count_on_socket(self.bundle, images.pixels[:_ON_SOCKET], manifest.num_exits),
            coding=coding_time(narrow_bundle, wide_bundle, images.pixels[:_TIMED]),
        )


def _evaluated(bundle: Bundle, images: LabelledImages) -> Report:
    manifest = bundle.manifest
    with progress(f"images, {manifest.name}", len(images)) as advance:
        found = predict_every_exit(bundle, images.pixels, payload="feature", advance=advance)
    table = found.against(images.classes_as(manifest.labels))
    point = manifest.operating_point
    return report(
        manifest,
        table,
        point.thetas,
        split_point=point.split_point,
        name=point.name,
        offloads=found.offloads,
    )


if __name__ == "__main__":
    run_command(Wire, sys.argv[1:], program="python -m benchmarks.wire")
