"""What each process holds, every few seconds, and whether that grows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import psutil

Figure = Literal["memory_mb", "files", "threads"]
# What may be gained in an hour once everything is warm.
MOST_PER_HOUR: Mapping[Figure, float] = {"memory_mb": 8.0, "files": 10.0, "threads": 2.0}
_NOISE: Mapping[Figure, float] = {
    "memory_mb": 2.0,
    "files": 4.0,
    "threads": 1.0,
}  # and in all, which shows nothing
_WARM = 1 / 3  # of the time, before which growth doesn't count: caches fill, threads start


@dataclass(frozen=True)
class Sample:
    """One process, or several together, at one time in seconds since the beginning."""

    at_s: float
    memory_mb: float
    files: int
    threads: int


@dataclass
class Series:
    """The samples of one process, or of several together."""

    name: str
    samples: list[Sample] = field(default_factory=list)

    def per_hour(self, figure: Figure) -> float:
        """How fast a figure grows once it is warm: the median slope between all pairs of samples (Theil and Sen)."""
        warm = self._warm()
        at, values = (np.array([getattr(each, name) for each in warm], float) for name in ("at_s", figure))
        first, second = np.triu_indices(len(warm), 1)
        if not len(first):
            return 0.0
        return float(np.median((values[second] - values[first]) / (at[second] - at[first]))) * 3600

    def is_flat(self, figure: Figure) -> bool:
        """Whether it grows no faster than it may, or by next to nothing."""
        first, last = self.ends(figure)
        return self.per_hour(figure) <= MOST_PER_HOUR[figure] or last - first <= _NOISE[figure]

    def most(self, figure: Figure) -> float:
        """Its largest value."""
        return float(max(getattr(each, figure) for each in self.samples))

    def ends(self, figure: Figure) -> tuple[float, float]:
        """Medians of its first and last ten warm samples."""
        values = [float(getattr(each, figure)) for each in self._warm()]
        return float(np.median(values[:10])), float(np.median(values[-10:]))

    def _warm(self) -> Sequence[Sample]:
        end = self.samples[-1].at_s
        warm = [each for each in self.samples if each.at_s >= end * _WARM]
        return warm[:: max(1, len(warm) // 400)]


class Sampler:
    """Samples processes in a thread of its own. `processes` names those that run now; what has one name is added up."""

    def __init__(
        self, processes: Callable[[], Mapping[str, Sequence[psutil.Process]]], every_s: float
    ) -> None:
        self.series: dict[str, Series] = {}
        self._processes, self._every_s = processes, every_s
        self._begun = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> list[Series]:
        """Sample no more; what was seen of each process."""
        self._stop.set()
        self._thread.join()
        return list(self.series.values())

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            for name, processes in self._processes().items():
                with suppress(psutil.Error):
                    self._sample(name, processes)

    def _sample(self, name: str, processes: Sequence[psutil.Process]) -> None:
        sample = Sample(
            at_s=time.monotonic() - self._begun,
            memory_mb=sum(each.memory_info().rss for each in processes) / 2**20,
            files=sum(each.num_fds() for each in processes),
            threads=sum(each.num_threads() for each in processes),
        )
        self.series.setdefault(name, Series(name)).samples.append(sample)
