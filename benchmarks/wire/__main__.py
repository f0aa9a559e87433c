"""Bytes and accuracy of what is offloaded, against sending the photo.

    python -m benchmarks.wire models/b-alexnet-cifar10 --wide runs/bundles/b-alexnet-cifar10 --data data/cifar10.zip

The photo's rivals are the codecs a gateway has; each is charged with what it does to the accuracy of the full network.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from offramp.cli.errors import told_in_one_line
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

_TIMED = 500
_ON_SOCKET = 300


@told_in_one_line
def main(
    bundle: Annotated[Path, typer.Argument(help="Bundle with a bottleneck.")],
    wide: Annotated[Path, typer.Option(help="The same network without one.")],
    data: Annotated[Path, typer.Option(help="Its test data.")],
    photos: Annotated[int, typer.Option(help="Test photos that go through every codec.")] = 2000,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    page: Annotated[
        Path | None, typer.Option(help="Also write this Markdown file, and its plot beside it.")
    ] = None,
) -> None:
    """Rate and accuracy of the feature and of the photo, bytes on the socket, and what encoding takes.

    Example: python -m benchmarks.wire models/b-lenet-mnist --wide runs/bundles/b-lenet-mnist --data data/mnist
    """
    narrow_bundle, wide_bundle = load_bundle(bundle), load_bundle(wide)
    manifest = wide_bundle.manifest
    images = load_images(data, "test", manifest.preprocessing)
    few = images.take(np.linspace(0, len(images) - 1, min(photos, len(images))).astype(np.int64))
    with progress("codecs", num_codecs()) as advance:
        points = photo_points(wide_bundle, few, few.classes_as(manifest.labels), advance)
    found = Findings(
        photos=points,
        few=len(few),
        narrow_few=_evaluated(narrow_bundle, few),
        narrow=_evaluated(narrow_bundle, images),
        wide=_evaluated(wide_bundle, images),
        socket=count_on_socket(bundle, images.pixels[:_ON_SOCKET], manifest.num_exits),
        coding=coding_time(narrow_bundle, wide_bundle, images.pixels[:_TIMED]),
    )
    text = page_of(found, data.name)
    if as_json:
        typer.echo(json.dumps(asdict(found), default=lambda one: one.model_dump()))
    else:
        Console().print(text, highlight=False, markup=False, soft_wrap=True)
    if page:
        plot_of(found, page.with_suffix(".svg"))
        page.write_text(f"{text}\n![bytes against accuracy]({page.stem}.svg)\n", encoding="utf-8")


def _evaluated(bundle: Bundle, images: LabelledImages) -> Report:
    manifest = bundle.manifest
    with progress(f"images, {manifest.name}", len(images)) as advance:
        found = predict_every_exit(bundle, images.pixels, advance=advance)
    table = found.against(images.classes_as(manifest.labels))
    point = manifest.operating_point
    return report(
        manifest,
        table,
        point.thetas,
        split_point=point.split_point,
        name=point.name,
        payload_bytes=found.payload_bytes,
    )


if __name__ == "__main__":
    typer.run(main)
