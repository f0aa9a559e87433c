"""Chooses the operating point to serve, and measures its accuracy and that of the rivals' backbone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import onnxruntime

from benchmarks.serving.backbone import backbone_of
from offramp.authoring.data import LabelledImages, load_images
from offramp.authoring.evaluation.predictions import predict_every_exit
from offramp.bundle import Bundle
from offramp.bundle.manifest import OperatingPoint
from offramp.cli.held_out import held_out, origin_of
from offramp.cli.reading import Reading
from offramp.errors import ConfigError, DataError

_BATCH_BYTES = 1 << 20  # of pixels; the features inside the network take a hundred times as much


@dataclass(frozen=True)
class Chosen:
    """A point of a bundle, and accuracies on the test images, 0 to 1, if there are any with classes.

    drop: percentage points that the point is below the plain backbone, on validation samples.
    """

    point: OperatingPoint
    drop: float
    test_accuracy: float | None = None
    test_accuracy_of_backbone: float | None = None


def choose(
    bundle: Bundle, data: Path, *, max_drop: float, name: str | None = None, backbone: Bundle | None = None
) -> Chosen:
    """The point of that name, or the cheapest one that is at most `max_drop` points below the plain backbone.

    The rivals serve the plain backbone. If a bundle aggregates, the backbone is less accurate than the bundle's 'full'.

    Args:
        bundle: calibrated.
        data: the data it was trained on; photos alone are enough for a bundle that does not aggregate.
        max_drop: in percentage points, on validation samples.
        name: of a point, if it is chosen already.
        backbone: the bundle whose plain backbone the rivals serve, if it is another.

    Raises:
        ConfigError: the bundle is not calibrated, has no such point, or aggregates and there are only photos.
    """
    measured = {p.name: p.measured for p in bundle.manifest.operating_points if p.measured}
    if "full" not in measured:
        raise ConfigError(f"{bundle.directory} has no measured points; run offramp calibrate")
    if name is not None and name not in measured:
        raise ConfigError(f"no measured point '{name}'; {bundle.directory} has {', '.join(measured)}")
    of_backbone = measured["full"].accuracy
    plain = backbone or bundle
    if bundle.manifest.aggregates or backbone:
        of_backbone = accuracy_of_backbone(plain, _validation(bundle, data))
    drops = {each: 100 * (of_backbone - found.accuracy) for each, found in measured.items()}
    allowed = [each for each, drop in drops.items() if drop <= max_drop + 1e-9]
    name = name or min(allowed, key=lambda each: measured[each].macs_mean)
    point = bundle.manifest.point_named(name)
    try:
        test = load_images(data, "test", bundle.manifest.preprocessing)
        classes_N = test.classes_as(bundle.manifest.labels)
    except DataError:  # photos without classes, or with others
        return Chosen(point, drops[name])
    table = predict_every_exit(bundle, test.pixels).against(classes_N)
    right = table.correct_at(table.exit_taken(point.thetas))
    return Chosen(point, drops[name], float(right.mean()), accuracy_of_backbone(plain, test))


def _validation(bundle: Bundle, data: Path) -> LabelledImages:
    try:
        origin = origin_of(bundle.manifest, bundle.directory)
        return held_out(origin, bundle.manifest.preprocessing, data, Reading())
    except DataError as error:
        raise ConfigError(
            f"{bundle.directory} has to be compared with the rivals' backbone on held-out samples: {error}"
        ) from error


def accuracy_of_backbone(bundle: Bundle, images: LabelledImages) -> float:
    """Share of images, 0 to 1, that the plain backbone classifies right; few of them are held at a time."""
    session = onnxruntime.InferenceSession(
        backbone_of(bundle).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    at_once = max(1, _BATCH_BYTES // math.prod(bundle.manifest.preprocessing.pixel_shape))
    classes_N = images.classes_as(bundle.manifest.labels)
    right = 0
    for start in range(0, len(images), at_once):
        part = slice(start, start + at_once)
        [probabilities_BK] = session.run(["probabilities"], {name: images.pixels[part]})
        right += int((probabilities_BK.argmax(axis=1) == classes_N[part]).sum())
    return right / len(images)
