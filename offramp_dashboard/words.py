"""Formats numbers for people."""

from __future__ import annotations

import math

ABSENT = "–"


def number(value: float | None) -> str:
    """A count or a rate in a few characters: 0.42, 17.3, 1,204, 1.2 M."""
    if value is None:
        return ABSENT
    for size, letter in ((1e9, "G"), (1e6, "M")):
        if abs(value) >= size:
            return f"{value / size:.3g} {letter}"
    if value == round(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def percent(share: float | None) -> str:
    """A share of 0 to 1 as a percentage."""
    return ABSENT if share is None else f"{share:.1%}".replace(".0%", "%").replace("%", " %")


def data_bytes(value: float | None) -> str:
    """Bytes, in kB and MB from a thousand on."""
    if value is None:
        return ABSENT
    for size, unit in ((1e6, "MB"), (1e3, "kB")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f} B"


def milliseconds(value: float | None) -> str:
    """A duration; infinity, which means above a histogram's last bound, becomes "> 5 s"."""
    if value is None:
        return ABSENT
    if math.isinf(value):
        return "> 5 s"
    if value >= 1000:
        return f"{value / 1000:.2f} s"
    if value >= 1:
        return f"{value:.3g} ms"
    return f"{value:.2f} ms" if value >= 0.1 or value == 0 else f"{value:.3f} ms"


def sent_as(sent: str) -> str:
    """What was sent upstream; `sent` is a node's own word, which may be one of a later version."""
    return _FORMS.get(sent, sent)


_FORMS = {
    "feature": "feature",
    "image": "photo as it came",
    "pixels": "picture at the network's size",
    "unanswered": "sent, but not answered",
}
