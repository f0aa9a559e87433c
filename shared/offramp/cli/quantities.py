"""Durations and speeds as people write them: 40ms, 5mbit."""

from __future__ import annotations

import re
from collections.abc import Mapping

_MILLISECONDS = {"ms": 1.0, "s": 1000.0}
_MEGABITS = {"kbit": 1e-3, "mbit": 1.0, "gbit": 1e3}


def milliseconds(text: str) -> float:
    """The duration in milliseconds; ValueError if it is none."""
    return _quantity(text, _MILLISECONDS)


def megabits(text: str) -> float:
    """The speed in megabits per second; ValueError if it is none."""
    return _quantity(text, _MEGABITS)


def a_duration(text: str) -> str:
    """The text itself, if it is a duration."""
    milliseconds(text)
    return text


def a_speed(text: str) -> str:
    """The text itself, if it is a speed."""
    megabits(text)
    return text


def _quantity(text: str, units: Mapping[str, float]) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([a-z]+)", text.strip().lower())
    if not found or found[2] not in units:
        raise ValueError(f"write a number and one of {', '.join(units)}")
    return float(found[1]) * units[found[2]]
