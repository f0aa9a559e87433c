"""An evaluation as one self-contained HTML file: figures, plots and photos."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from offramp.authoring.data import LabelledImages
from offramp.authoring.evaluation.judging import in_words
from offramp.authoring.evaluation.report import Report
from offramp.authoring.evaluation.statistics import rarely
from offramp.authoring.evaluation.table import ExitTable
from offramp.bundle import Manifest
from offramp.engine.payload import Sent
from offramp.errors import ConfigError
from offramp.install import how_to_install

_TEMPLATE = Path(__file__).with_name("page.html")
_PHOTOS = 24
_PHOTO_SIDE = 96
_NO_LABEL = "no label"
_FORMS: dict[Sent, str] = {
    "feature": "feature",
    "image": "photo as it came",
    "pixels": "picture at the network's size",
}


@dataclass(frozen=True, eq=False)
class Evaluated:
    """Everything that a page shows.

    points: a report for each operating point of the bundle. taken_N: index of the exit at which each image leaves.
    predicted_N: what this exit answers; like truth_N, classes (N,), labels (N, K) or values (N,). data: where the
    images come from, and which part of them. command: as it was typed.
    """

    manifest: Manifest
    images: LabelledImages
    truth_N: NDArray[Any]
    predicted_N: NDArray[Any]
    table: ExitTable
    taken_N: NDArray[np.int64]
    report: Report
    points: Sequence[Report]
    data: str
    command: str


@dataclass(frozen=True)
class Photo:
    """A photo on the page, what it is, and what the exit that it took said."""

    source: str
    true: str
    predicted: str
    is_right: bool
    exit: int
    confidence: float


@dataclass(frozen=True)
class ClassRow:
    """Where the images of a class leave: a share for each exit; empty if there are none."""

    label: str
    samples: int
    shares: tuple[float, ...]


def write_page(path: Path, evaluated: Evaluated) -> None:
    """Write the page.

    Raises:
        ConfigError: the plotting libraries are not installed, or the file cannot be written.
    """
    try:
        from jinja2 import Environment, FileSystemLoader

        from offramp.authoring.evaluation import plots
    except ImportError as error:
        raise ConfigError(f"a page needs {error.name}; run: {how_to_install('report')}") from error
    environment = Environment(loader=FileSystemLoader(_TEMPLATE.parent), autoescape=True)
    environment.filters |= {"by_chance": by_chance, "rarely": rarely}
    text = environment.get_template(_TEMPLATE.name).render(
        report=evaluated.report,
        data=evaluated.data,
        command=evaluated.command,
        forms=_FORMS,
        date=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        trade_off=plots.trade_off(evaluated.report, evaluated.points),
        reliability=plots.reliability(evaluated.table),
        colours=plots.COLOURS,
        **_by_class(evaluated),
        points=evaluated.points,
        easiest=_contact_sheet(evaluated, _easiest(evaluated)),
        hardest=_contact_sheet(evaluated, _hardest(evaluated)),
    )
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error


def by_chance(p: float) -> str:
    """What a difference means, as a sentence's end."""
    if p < 0.05:
        return f"more than chance: that alone makes such a difference {rarely(p)}"
    return f"chance explains the difference: it makes one as large {rarely(p)}"


def _by_class(evaluated: Evaluated) -> dict[str, Any]:
    """What a page shows of each class; nothing if the answers are not single classes."""
    from offramp.authoring.evaluation.confusion import confusion

    if evaluated.manifest.task.kind != "single_label":
        return {}
    return {
        "classes": _class_rows(evaluated),
        "confusion": confusion(evaluated.truth_N, evaluated.predicted_N, evaluated.manifest.labels),
    }


def _class_rows(evaluated: Evaluated) -> list[ClassRow]:
    rows = []
    for at, label in enumerate(evaluated.manifest.labels):
        taken = evaluated.taken_N[evaluated.truth_N == at]
        counts = np.bincount(taken, minlength=evaluated.table.num_exits)
        rows.append(ClassRow(label, len(taken), tuple((counts / len(taken)).tolist()) if len(taken) else ()))
    return rows


def _easiest(evaluated: Evaluated) -> NDArray[np.int64]:
    """The images that leave earliest, the most confident first."""
    order = np.lexsort((-evaluated.table.confidence[:, 0], evaluated.taken_N))
    return order[:_PHOTOS]


def _hardest(evaluated: Evaluated) -> NDArray[np.int64]:
    """The images that leave last, the least confident first."""
    order = np.lexsort((evaluated.table.confidence[:, -1], -evaluated.taken_N))
    return order[:_PHOTOS]


def _contact_sheet(evaluated: Evaluated, chosen: NDArray[np.int64]) -> list[Photo]:
    manifest = evaluated.manifest
    return [
        Photo(
            source=_as_data(evaluated.images.pixels[number]),
            true=in_words(manifest, evaluated.truth_N[number]) or _NO_LABEL,
            predicted=in_words(manifest, evaluated.predicted_N[number]) or _NO_LABEL,
            is_right=bool(evaluated.table.correct[number, exit]),
            exit=int(exit) + 1,
            confidence=float(evaluated.table.confidence[number, exit]),
        )
        for number, exit in zip(chosen, evaluated.taken_N[chosen], strict=True)
    ]


def _as_data(pixels_HWC: NDArray[np.uint8]) -> str:
    image = Image.fromarray(pixels_HWC.squeeze(2) if pixels_HWC.shape[2] == 1 else pixels_HWC)
    image.thumbnail((_PHOTO_SIDE, _PHOTO_SIDE))
    file = io.BytesIO()
    image.save(file, format="PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
