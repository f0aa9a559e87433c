"""What the documentation tells people to type exists: commands, options, imports, paths."""

from __future__ import annotations

import ast
import importlib
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.test_docs import PAGES, text_of

_BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"\bofframp ([a-z]+)([^&#\n]*)")
_OPTION = re.compile(r"(?<!\S)--[a-z][a-z-]*")
# With a slash in it, and no space, placeholder or pattern.
_PATH = re.compile(r"`([a-z_.]+/[\w./-]*)`")


def blocks(language: str) -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        for _, found, code in _BLOCK.findall(text_of(page)):
            if found == language:
                yield page, code


def options_by_command() -> dict[str, set[str]]:
    typed: dict[str, set[str]] = {}
    for _, code in blocks("console"):
        for name, rest in _COMMAND.findall(code):
            typed.setdefault(name, set()).update(_OPTION.findall(rest))
    return typed


def imports_of(code: str) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)


@pytest.mark.parametrize(("command", "options"), sorted(options_by_command().items()))
def test_every_command_in_the_docs_has_the_options_it_is_shown_with(
    command: str, options: set[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["offramp", command, "--help"])
    with pytest.raises(SystemExit) as left:
        runpy.run_module("offramp.cli", run_name="__main__")
    told = capsys.readouterr()
    assert not left.value.code, told.err
    assert options <= set(re.findall(r"--[a-z][a-z-]*", told.out))


def test_every_name_that_the_docs_import_exists() -> None:
    imports = {found for _, code in blocks("python") if "--8<--" not in code for found in imports_of(code)}
    assert imports
    missing = [
        (module, name) for module, name in imports if not hasattr(importlib.import_module(module), name)
    ]
    assert not missing


def test_every_path_on_the_map_of_the_code_exists() -> None:
    named = set(_PATH.findall(text_of(ROOT / "ARCHITECTURE.md")))
    assert len(named) > 40
    homes = (ROOT, ROOT / "shared/offramp")
    assert not [path for path in sorted(named) if not any((home / path).exists() for home in homes)]
