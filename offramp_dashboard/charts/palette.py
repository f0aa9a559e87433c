"""Colours, for light and dark, and what all charts have in common."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

Options = dict[str, Any]


@dataclass(frozen=True)
class Palette:
    """Colours that can be told apart, also by those who see no red or no green."""

    text: str
    muted: str
    line: str
    surface: str
    exits: tuple[str, ...]
    final: str
    degraded: str
    accent: str

    def exit(self, name: str) -> str:
        """Colour of an exit, the same in every chart."""
        found = re.fullmatch(r"exit-([0-9]{1,4})", name)
        return self.exits[(int(found[1]) - 1) % len(self.exits)] if found else self.final

    def form(self, sent: str) -> str:
        """Colour of a form in which something is sent upstream."""
        known = {"feature": self.accent, "image": self.exits[1], "unanswered": self.degraded}
        return known.get(sent, self.exits[2])


LIGHT = Palette(
    text="#1b2733",
    muted="#5b6b7b",
    line="#dfe5eb",
    surface="#ffffff",
    exits=("#2f6fde", "#12908e", "#7a54c7", "#5f8a2a", "#a8478f"),
    final="#d9822b",
    degraded="#c93a3a",
    accent="#2f6fde",
)
DARK = Palette(
    text="#e6edf3",
    muted="#93a1b0",
    line="#2c3844",
    surface="#17202a",
    exits=("#6ea2ff", "#3cc4c0", "#b597f5", "#a3cc66", "#e58ccb"),
    final="#f0a35a",
    degraded="#f47c7c",
    accent="#6ea2ff",
)


def base(palette: Palette, said: str) -> Options:
    """What every chart begins with: no animation, since the next second redraws it; `said` is read aloud.

    The chart's own legend is off: it doesn't wrap on a phone. `view.Chart` writes it beside the chart.
    """
    return {
        "animation": False,
        "aria": {"enabled": True, "label": {"description": said}},
        "textStyle": {"color": palette.text, "fontFamily": "Roboto, sans-serif"},
        "grid": {"left": 8, "right": 30, "top": 12, "bottom": 8, "containLabel": True},
        "tooltip": {
            "trigger": "axis",
            "confine": True,
            "backgroundColor": palette.surface,
            "borderColor": palette.line,
            "textStyle": {"color": palette.text, "fontSize": 13},
        },
    }


def axis(palette: Palette, kind: str, **more: Any) -> Options:
    """An axis with quiet lines."""
    label = {"color": palette.muted, "fontSize": 13, "hideOverlap": True} | more.pop("axisLabel", {})
    return {
        "type": kind,
        "axisLabel": label,
        "axisLine": {"lineStyle": {"color": palette.line}},
        "axisTick": {"show": False},
        "splitLine": {"show": kind != "time" and kind != "category", "lineStyle": {"color": palette.line}},
        "nameTextStyle": {"color": palette.muted},
    } | more
