"""Finds out how this Offramp was installed, and which command adds one of its extras."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

_NAME = "offramp"


def how_to_install(extra: str) -> str:
    """The command that adds an extra to this installation from the same origin, quoted for a shell.

    Source: PEP 610, `direct_url.json`; an installation from a package index has no such file.
    """
    return f"{_pip()} install {_requirement(_direct_url(), extra)}"


def _direct_url() -> dict[str, Any] | None:
    try:
        text = distribution(_NAME).read_text("direct_url.json")
    except PackageNotFoundError:
        return None
    return None if text is None else dict(json.loads(text))


def _pip() -> str:
    """`pip` if a shell finds the one of this interpreter, otherwise `PYTHON -m pip`."""
    found = shutil.which("pip")
    if found and Path(found).absolute().parent == Path(sys.executable).parent:
        return "pip"
    return f"{shlex.quote(sys.executable)} -m pip"


def _requirement(origin: dict[str, Any] | None, extra: str) -> str:
    if origin is None:
        return shlex.quote(f"{_NAME}[{extra}]")
    url = urlsplit(origin["url"])
    if url.scheme == "file" and "vcs_info" not in origin:
        path = shlex.quote(f"{url2pathname(url.path)}[{extra}]")
        return f"-e {path}" if origin.get("dir_info", {}).get("editable") else path
    address = origin["url"]
    if vcs := origin.get("vcs_info"):
        address = f"{vcs['vcs']}+{address}@{vcs.get('requested_revision') or vcs['commit_id']}"
    if inside := origin.get("subdirectory"):
        address = f"{address}#subdirectory={inside}"
    return shlex.quote(f"{_NAME}[{extra}] @ {address}")
