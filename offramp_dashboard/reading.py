"""Parses what `GET /metrics` answers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from offramp.errors import OfframpError

_STARTED = "process_start_time_seconds"


class ReadingError(OfframpError):
    """The text is not the metrics of a node."""


class Key(NamedTuple):
    """Name of a sample and its labels, sorted."""

    name: str
    labels: tuple[tuple[str, str], ...] = ()

    def label(self, name: str) -> str:
        """Value of a label; "" if it has none of that name."""
        return dict(self.labels).get(name, "")


@dataclass(frozen=True)
class Reading:
    """Counters (including the parts of histograms) and gauges of one node."""

    counters: Mapping[Key, float]
    gauges: Mapping[Key, float]
    started: float | None

    def gauge(self, name: str) -> float | None:
        """Value of a gauge without labels; None if the node does not have it."""
        return self.gauges.get(Key(name))

    @property
    def bundle_id(self) -> str | None:
        """The bundle that is served, if the node reports it."""
        return next((key.label("bundle") for key in self.gauges if key.name == "offramp_bundle_info"), None)


def parsed(text: str) -> Reading:
    """Parse the text of `/metrics`.

    Raises:
        ReadingError: it is not the metrics of a node.
    """
    counters: dict[Key, float] = {}
    gauges: dict[Key, float] = {}
    started = None
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                key = Key(sample.name, tuple(sorted(sample.labels.items())))
                if sample.name == _STARTED:
                    started = sample.value
                elif not sample.name.startswith("offramp_") or sample.name.endswith("_created"):
                    continue
                elif family.type == "gauge":
                    gauges[key] = sample.value
                elif math.isfinite(sample.value) and sample.value >= 0:
                    counters[key] = sample.value
                else:
                    raise ReadingError(f"{sample.name} is {sample.value}, but a counter is 0 or more")
    # The parser has no errors of its own; malformed text makes it raise these.
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise ReadingError("GET /metrics answered with something that is not Prometheus text") from error
    if not any(key.name.startswith("offramp_samples") for key in counters) and not gauges:
        raise ReadingError("GET /metrics has no figures of Offramp; is this the address of a node's metrics?")
    return Reading(counters, gauges, started)
