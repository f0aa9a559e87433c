"""Whether an operating point keeps, on other samples, the limit that it was chosen for. Shapes: N samples."""

from __future__ import annotations

import math
import re

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from offramp.record import Record

_LIMITED = re.compile(r"(drop|cost|quantiles|ms|bytes)-([0-9.]+(?:e[0-9]+)?)")
_WORDS = {
    "drop": "{:.2f} points less accurate than the full network",
    "cost": "{:.3f} of the backbone's multiplications",
    "ms": "{:.3f} milliseconds a sample",
    "bytes": "{:,.1f} bytes a request",
}
_BEYOND_CHANCE = 2.33  # standard errors; one in a hundred, one-sided


class Overshoot(Record):
    """A limit that was kept on the held-out samples and is not kept on these."""

    point: str
    limit: float = Field(description="in the unit of the point's name")
    found: float
    is_beyond_chance: bool = Field(
        description="whether other samples of the same kind would hardly overshoot as far, if the limit held on average"
    )

    @property
    def meaning(self) -> str:
        """What was found, and what to do."""
        kind, _, _ = self.point.partition("-")
        words = _WORDS["cost" if kind == "quantiles" else kind]
        seen = (
            f"'{self.point}' is {words.format(self.found)} on these samples, over its limit of {self.limit:g}"
        )
        if self.is_beyond_chance:
            return f"{seen} and further than chance explains; calibrate on photos like these, or ask for less"
        return (
            f"{seen}, though not further than chance explains; a limit is kept on the held-out samples only, "
            "`offramp calibrate --guarantee` gives one that holds beyond them"
        )


def overshoot_of(
    point: str | None,
    *,
    right_N: NDArray[np.bool_],
    full_right_N: NDArray[np.bool_],
    spent_N: dict[str, NDArray[np.float64]],
) -> Overshoot | None:
    """Compare an operating point with the limit in its name; None if it has none, or keeps it.

    Args:
        point: name of the operating point.
        right_N: where its answers are right.
        full_right_N: where those of the full network are.
        spent_N: what each sample costs, by kind of limit.
    """
    limited = _LIMITED.fullmatch(point or "")
    if not point or not limited:
        return None
    kind, limit = "cost" if limited[1] == "quantiles" else limited[1], float(limited[2])
    lost_N = 100.0 * (full_right_N.astype(np.float64) - right_N)
    values_N = lost_N if kind == "drop" else spent_N.get(kind)
    if values_N is None or not values_N.size or (found := float(values_N.mean())) <= limit:
        return None
    error = float(values_N.std()) / math.sqrt(len(values_N))
    return Overshoot(
        point=point, limit=limit, found=found, is_beyond_chance=found - limit > _BEYOND_CHANCE * error
    )
