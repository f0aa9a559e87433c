"""The locked versions in requirements/: each part's are complete, hashed, and what pyproject.toml allows."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

_LOCKED = ROOT / "requirements"
_PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
_EXTRAS: dict[str, list[str]] = _PROJECT["project"]["optional-dependencies"]
_OWN_ENVIRONMENT = {"ray"}  # an extra that is never installed beside the others


def declared(extras: set[str], groups: set[str]) -> Iterator[Requirement]:
    for text in [
        *_PROJECT["project"]["dependencies"],
        *(text for extra in extras for text in _EXTRAS[extra]),
    ]:
        yield Requirement(text)
    for group in groups:
        yield from in_group(group)


def in_group(group: str) -> Iterator[Requirement]:
    for entry in _PROJECT["dependency-groups"][group]:
        if isinstance(entry, str):
            yield Requirement(entry)
        else:
            yield from in_group(entry["include-group"])


def pins(file: str) -> dict[str, list[Requirement]]:
    """By name; one package may have a version for each of several Pythons."""
    found: dict[str, list[Requirement]] = {}
    for line in (_LOCKED / file).read_text().splitlines():
        if line and not line.startswith(("#", " ")):
            pin = Requirement(line.removesuffix("\\"))
            found.setdefault(canonicalize_name(pin.name), []).append(pin)
    return found


PARTS = {
    "edge.txt": ({"edge"}, set()),
    "cloud.txt": ({"cloud"}, set()),
    "dashboard.txt": ({"dashboard"}, set()),
    "dev.txt": (set(_EXTRAS) - _OWN_ENVIRONMENT, {"dev"}),
}


@pytest.mark.parametrize("file", PARTS)
def test_a_lock_pins_each_declared_dependency_within_its_range(file: str) -> None:
    pinned = pins(file) | pins("torch.txt")
    for wanted in declared(*PARTS[file]):
        for pin in pinned.get(canonicalize_name(wanted.name), [Requirement(wanted.name)]):
            version = str(pin.specifier).removeprefix("==")
            assert version and wanted.specifier.contains(version), (
                f"{wanted} is declared, requirements/{file} has {pin}; run `make lock`"
            )


@pytest.mark.parametrize("file", [*PARTS, "build.txt"])
def test_every_locked_version_has_hashes_and_names_no_index(file: str) -> None:
    text = (_LOCKED / file).read_text()
    assert len(re.findall(r"^\S+==\S+.* \\\n    --hash=sha256:", text, re.MULTILINE)) == sum(
        len(versions) for versions in pins(file).values()
    )
    assert "://" not in text and "--index" not in text and "--find-links" not in text


def test_a_lock_leaves_torch_and_what_a_gpu_needs_to_the_machine() -> None:
    for file in [*PARTS, "build.txt"]:
        assert not [name for name in pins(file) if name == "torch" or name.startswith("nvidia-")]


def test_the_parts_agree_on_every_version() -> None:
    everything = pins("dev.txt")
    for file in (*PARTS, "build.txt"):
        for name, versions in pins(file).items():
            allowed = {str(pin.specifier) for pin in everything[name]}
            assert {str(pin.specifier) for pin in versions} <= allowed, f"{name} in {file} and dev.txt differ"
