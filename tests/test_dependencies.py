"""Each part declares what it imports, and nothing else: `pip install 'offramp[edge]'` brings what the edge needs."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.conftest import ROOT

# The extras that each part may import from, beside the core's own dependencies; the longest path that fits decides.
_PARTS: dict[str, tuple[str, ...]] = {
    "shared/offramp": (),
    "shared/offramp/authoring": ("train", "report", "evaluate", "transformers"),
    "shared/offramp/engine/runtime/openvino.py": ("openvino",),
    "shared/offramp/engine/runtime/torch.py": ("torch",),
    "shared/offramp/serving/tracing.py": ("otel",),
    "shared/offramp/serving/http": ("edge", "cloud"),
    "shared/offramp/engine/images": ("heif",),
    "edge_node": ("edge",),
    "cloud_node": ("cloud",),
    "cloud_node/ray_app.py": ("cloud", "ray"),
    "offramp_dashboard": ("dashboard",),
}
# What is needed though no line imports it.
_UNSEEN = {
    "httptools": "uvicorn's parser, below the edge's own protocol",
    "onnxscript": "torch's exporter to ONNX",
    "opentelemetry-exporter-otlp-proto-http": "imported as the namespace `opentelemetry`, as is the SDK",
    "wsproto": "uvicorn's WebSockets, chosen by name",
}
_DISTRIBUTIONS = packages_distributions()
_OURS = {"offramp", *(part for part in _PARTS if "/" not in part)}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements: list[str]) -> set[str]:
    return {canonical(re.split(r"[^A-Za-z0-9._-]", each, maxsplit=1)[0]) for each in requirements}


@cache
def declared(extra: str | None = None) -> frozenset[str]:
    """The distributions of an extra, or those of the core; none for an extra that does not exist."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    chosen = project["dependencies"] if extra is None else project["optional-dependencies"].get(extra, [])
    return frozenset(names(chosen))


def distributions_of(package: str) -> set[str]:
    """Those that install a top-level package; one that is not installed is taken to be called as its package is."""
    return {canonical(name) for name in _DISTRIBUTIONS.get(package, [package])}


def part_of(file: Path) -> str:
    path = file.relative_to(ROOT)
    return max((part for part in _PARTS if path.is_relative_to(part)), key=len)


def files_of(part: str) -> list[Path]:
    place = ROOT / part
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place]
    return [file for file in files if part_of(file) == part]


def imported(file: Path) -> Iterator[tuple[str, int]]:
    """The top-level packages of other people that a file imports, and the lines it does so on."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=aliases):
                modules = [alias.name for alias in aliases]
            case ast.ImportFrom(module=str(module), level=0):
                modules = [module]
            case _:
                continue
        for module in modules:
            package = module.partition(".")[0]
            if package not in sys.stdlib_module_names | _OURS:
                yield package, node.lineno


@pytest.mark.parametrize("part", _PARTS)
def test_a_part_imports_only_what_it_declares(part: str) -> None:
    allowed = declared().union(*map(declared, _PARTS[part]))
    files = files_of(part)
    assert files, f"nothing is left of {part}"
    missing = [
        f"{file.relative_to(ROOT)}:{number} imports {package}, declared by neither the core nor {_PARTS[part]}"
        for file in files
        for package, number in imported(file)
        if not distributions_of(package) & allowed
    ]
    assert not missing, "\n".join(missing)


@pytest.mark.parametrize("extra", [None, *sorted({extra for extras in _PARTS.values() for extra in extras})])
def test_nothing_is_declared_that_no_part_imports(extra: str | None) -> None:
    users = [part for part, extras in _PARTS.items() if extra is None or extra in extras]
    used = {
        distribution
        for part in users
        for file in files_of(part)
        for package, _ in imported(file)
        for distribution in distributions_of(package)
    }
    assert declared(extra) - used - _UNSEEN.keys() == set()


def test_nothing_is_excused_that_is_not_declared() -> None:
    everything = {name for extras in _PARTS.values() for extra in extras for name in declared(extra)}
    assert _UNSEEN.keys() <= everything
