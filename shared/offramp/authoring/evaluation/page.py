"""An evaluation as one self-contained HTML file: figures, plots and photos."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from offramp.authoring.data import LabelledImages
from offramp.authoring.evaluation.report import Report
from offramp.authoring.evaluation.table import ExitTable
from offramp.bundle import Manifest
from offramp.errors import ConfigError
from offramp.install import how_to_install

_TEMPLATE = Path(__file__).with_name("page.html")
_PHOTOS = 24
_PHOTO_SIDE = 56


@dataclass(frozen=True, eq=False)
class Evaluated:
    """Everything that a page shows.

    points: a report for each operating point of the bundle. taken_N: index of the exit at which each image leaves.
    """

    manifest: Manifest
    images: LabelledImages
    classes_N: NDArray[np.int64]
    table: ExitTable
    taken_N: NDArray[np.int64]
    report: Report
    points: Sequence[Report]


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
    text = environment.get_template(_TEMPLATE.name).render(
        report=evaluated.report,
        labels=evaluated.manifest.labels,
        trade_off=plots.trade_off(evaluated.report, evaluated.points),
        reliability=plots.reliability(evaluated.table),
        by_class=plots.by_class(
            evaluated.taken_N, evaluated.classes_N, evaluated.manifest.labels, evaluated.table.num_exits
        ),
        points=evaluated.points,
        easiest=_contact_sheet(evaluated, _easiest(evaluated)),
        hardest=_contact_sheet(evaluated, _hardest(evaluated)),
    )
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error


def _easiest(evaluated: Evaluated) -> NDArray[np.int64]:
    """The images that leave earliest, the most confident first."""
    order = np.lexsort((-evaluated.table.confidence[:, 0], evaluated.taken_N))
    return order[:_PHOTOS]


def _hardest(evaluated: Evaluated) -> NDArray[np.int64]:
    """The images that leave last, the least confident first."""
    order = np.lexsort((evaluated.table.confidence[:, -1], -evaluated.taken_N))
    return order[:_PHOTOS]


def _contact_sheet(evaluated: Evaluated, chosen: NDArray[np.int64]) -> Sequence[dict[str, str | bool]]:
    sheet: list[dict[str, str | bool]] = []
    for number in chosen:
        exit = int(evaluated.taken_N[number])
        label = evaluated.manifest.labels[int(evaluated.classes_N[number])]
        sheet.append(
            {
                "source": _as_data(evaluated.images.pixels[number]),
                "text": f"{label}, exit {exit + 1}, {evaluated.table.confidence[number, exit]:.2f}",
                "right": bool(evaluated.table.correct[number, exit]),
            }
        )
    return sheet


def _as_data(pixels_HWC: NDArray[np.uint8]) -> str:
    image = Image.fromarray(pixels_HWC.squeeze(2) if pixels_HWC.shape[2] == 1 else pixels_HWC)
    image.thumbnail((_PHOTO_SIDE, _PHOTO_SIDE))
    file = io.BytesIO()
    image.save(file, format="PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
