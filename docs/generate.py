"""Writes the pages of settings and commands from the commands themselves: `python docs/generate.py`.

A test fails when the pages in the repository are not what this makes.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from cloud_node.settings import CloudSettings
from edge_node.settings import EdgeSettings
from offramp.cli.main import commands, load, overview
from offramp.command import Command, option_of
from offramp.serving.access.settings import AccessSettings
from offramp_dashboard.settings import DashboardSettings

_HERE = Path(__file__).parent
_ACCESS = AccessSettings.model_fields
_MADE = "<!-- made by docs/generate.py; change the fields and docstrings it is made from -->\n"

_INTRODUCTION = """\
Every setting of a node and of the dashboard can be given in three ways: as an option (`--max-batch 8`), as
an environment variable (`EDGE_MAX_BATCH=8`), and as a key of the TOML file that `--config` names
(`max_batch = 8`). The command line wins over the environment, the environment over the file, the file over
the default. A misspelt variable or key stops the node from starting.

The same name has the same meaning at both nodes. Names that end in `_s` are seconds, in `_ms` milliseconds.
"""


def main() -> None:
    """Write both pages."""
    for name, text in pages().items():
        (_HERE / name).write_text(text, encoding="utf-8")


def pages() -> Mapping[str, str]:
    """Each page by its file name."""
    return {"settings.md": settings_page(), "commands.md": commands_page()}


def settings_page() -> str:
    """Every setting of the nodes and the dashboard, by where it can be set."""
    return "\n".join(
        [
            _MADE,
            "# Settings",
            "",
            *_INTRODUCTION.splitlines(),
            "",
            *_table("Both nodes, `EDGE_…` and `CLOUD_…`", _shared(), (EdgeSettings, CloudSettings)),
            *_table("Encryption and access, both nodes", list(_ACCESS), (EdgeSettings, CloudSettings)),
            *_table("Edge node, `EDGE_…`", _own(EdgeSettings), (EdgeSettings,)),
            *_table("Cloud node, `CLOUD_…`", _own(CloudSettings), (CloudSettings,)),
            *_table("Dashboard, `DASHBOARD_…`", list(DashboardSettings.model_fields), (DashboardSettings,)),
        ]
    )


def commands_page() -> str:
    """What `--help` shows, command by command."""
    os.environ["COLUMNS"] = "100"
    parts = [_MADE, "# Commands", "", *_console(overview())]
    for name, entry in commands().items():
        shown = io.StringIO()
        with redirect_stdout(shown), suppress(SystemExit):
            load(entry).read(["--help"], program=f"offramp {name}")
        parts += [f"## {name}", "", *_console(shown.getvalue())]
    return "\n".join(parts).rstrip() + "\n"


def _console(text: str) -> list[str]:
    return ["```text", text.strip(), "```", ""]


def _shared() -> list[str]:
    both = [name for name in EdgeSettings.model_fields if name in CloudSettings.model_fields]
    return [name for name in both if name not in _ACCESS]


def _own(settings: type[Command]) -> list[str]:
    return [name for name in settings.model_fields if name not in (*_shared(), *_ACCESS)]


def _table(title: str, names: list[str], parts: tuple[type[Command], ...]) -> Iterator[str]:
    yield f"## {title}"
    yield ""
    yield "| setting | option | default | meaning |"
    yield "| --- | --- | --- | --- |"
    for name in names:
        fields = [part.model_fields[name] for part in parts]
        meaning, _, told = (fields[0].description or "").partition(" (default: ")
        defaults = [told.removesuffix(")")] if told else dict.fromkeys(_default(field) for field in fields)
        meaning += _choices(fields[0])
        yield f"| `{name.upper()}` | `{option_of(name, fields[0])}` | {', '.join(defaults)} | {meaning} |"
    yield ""


def _default(field: FieldInfo) -> str:
    match field.default:
        case None | ():
            return "none"
        case bool(value):
            return str(value).lower()
        case int(value):
            return f"{value:,}" if value >= 100_000 else str(value)
        case tuple(values):
            return ", ".join(map(str, values))
        case value if value is PydanticUndefined:
            return "required"
        case value:
            return str(value)


def _choices(field: FieldInfo) -> str:
    kind: Any = field.annotation
    return f" ({', '.join(map(str, get_args(kind)))})" if get_origin(kind) is Literal else ""


if __name__ == "__main__":
    main()
