"""A plan: every split and every way to send for one link, and the best of them for each aim. Shapes: N photos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from offramp.authoring.planning.link import LinkProfile
from offramp.authoring.planning.observed import Observed
from offramp.authoring.planning.rows import WITHOUT_LOSS, Overhead, Row, Rows
from offramp.bundle.manifest import Share
from offramp.record import Record

Aim = Literal["fewest bytes", "shortest latency", "least work for the cloud"]


class Plan(Record):
    """All rows for one link, and the best of those that can be served for each aim."""

    bundle: str
    photos: int
    labelled: bool = Field(description="false: accuracy is agreement with the full network")
    rate_mbit: float
    delay_ms: float
    thetas: tuple[float, ...]
    full_accuracy: Share
    max_drop: float
    rows: tuple[Row, ...]
    best: dict[Aim, int] = Field(description="index of the row")


def plan(
    observed: Observed,
    thetas: Sequence[float],
    link: LinkProfile,
    *,
    classes_N: NDArray[np.int64] | None = None,
    max_drop: float = 0.5,
    overhead: Overhead = Overhead(),  # noqa: B008 - immutable
) -> Plan:
    """Work out every row, and choose.

    Args:
        observed: the photos.
        thetas: θ of every exit but the last.
        link: between edge and cloud.
        classes_N: the true classes; without them, those of the full network.
        max_drop: a choice loses at most this many percentage points to sending without loss.
        overhead: of requests and calls.
    """
    truth_N = observed.answered.class_index[:, -1] if classes_N is None else classes_N
    rows = tuple(Rows(observed, thetas, link, truth_N, overhead))
    exact = next(row.accuracy for row in rows if row.sent == WITHOUT_LOSS)
    least = exact - max_drop / 100 - 1e-9
    allowed = [number for number, row in enumerate(rows) if row.serve and row.accuracy >= least]
    return Plan(
        bundle=observed.manifest.bundle_id,
        photos=observed.num_photos,
        labelled=classes_N is not None,
        rate_mbit=link.rate_mbit,
        delay_ms=link.delay_ms,
        thetas=tuple(thetas),
        full_accuracy=float((observed.answered.class_index[:, -1] == truth_N).mean()),
        max_drop=max_drop,
        rows=rows,
        best={aim: min((of(rows[number]), number) for number in allowed)[1] for aim, of in _AIMS.items()},
    )


_AIMS: dict[Aim, Callable[[Row], tuple[float, float]]] = {
    "fewest bytes": lambda row: (row.request_bytes, row.ms),
    "shortest latency": lambda row: (row.ms, row.request_bytes),
    "least work for the cloud": lambda row: (row.cloud_macs, row.ms),
}
