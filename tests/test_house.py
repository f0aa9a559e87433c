"""The house keeps its own rules: small files, small functions, and imports that go one way."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import grimp
import pytest

from tests.conftest import ROOT

_FILE_LINES = 300
_FUNCTION_LINES = 40
_FOLDERS = (
    "shared/offramp",
    "edge_node",
    "cloud_node",
    "offramp_dashboard",
    "benchmarks",
    "docs",
    "examples",
    "tests",
)
_GENERATED = ROOT / "shared" / "offramp" / "wire" / "v1"

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def files() -> list[Path]:
    """Every Python file that was written by hand."""
    found = []
    for folder in _FOLDERS:
        written = [file for file in (ROOT / folder).rglob("*.py") if not file.is_relative_to(_GENERATED)]
        assert written, f"nothing is left of {folder}"
        found += written
    return sorted(found)


def functions(source: str) -> Iterator[_Function]:
    """Every function, methods and those within functions included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, _Function):
            yield node


def num_lines(function: _Function) -> int:
    """From `def` to the end, its docstring not counted."""
    return _span(function) - (0 if ast.get_docstring(function) is None else _span(function.body[0]))


def _span(node: ast.stmt) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def circle_in(graph: grimp.ImportGraph) -> list[str]:
    """Modules of which each imports the next, the first one again at the end; none if there is no circle."""
    order = TopologicalSorter({each: graph.find_modules_directly_imported_by(each) for each in graph.modules})
    try:
        order.prepare()
    except CycleError as found:
        circle: list[str] = found.args[1]
        return circle[::-1]  # graphlib begins with what is imported
    return []


def layers() -> set[str]:
    """What the import contract in pyproject.toml names in its layers."""
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    lines = [line for rule in rules["contracts"] if rule["type"] == "layers" for line in rule["layers"]]
    return {module.strip() for line in lines for module in line.split("|")}


def test_no_file_is_longer_than_a_reader_keeps_in_mind() -> None:
    sizes = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in files()}
    long = [
        f"{file.relative_to(ROOT)} has {size} lines" for file, size in sizes.items() if size > _FILE_LINES
    ]
    assert not long, "\n".join([*long, f"expected at most {_FILE_LINES}; split it along its second idea"])


def test_no_function_is_longer_than_a_reader_keeps_in_mind() -> None:
    long = [
        f"{file.relative_to(ROOT)}:{function.lineno} {function.name} has {num_lines(function)} lines"
        for file in files()
        for function in functions(file.read_text(encoding="utf-8"))
        if num_lines(function) > _FUNCTION_LINES
    ]
    told = f"expected at most {_FUNCTION_LINES} beside the docstring; give a part of it a name of its own"
    assert not long, "\n".join([*long, told])


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("def f():\n    return 1", 2),
        ('def f():\n    """Say.\n\n    More.\n    """\n    return 1', 2),
        ("@cache\ndef f(\n    a,\n):\n    return a", 4),
        ("class C:\n    async def f(self):\n        x = '''\n'''", 3),
    ],
    ids=["all of it", "its docstring not", "its arguments, its decorators not", "a method"],
)
def test_the_lines_of_a_function_are_counted(source: str, lines: int) -> None:
    (function,) = functions(source)
    assert num_lines(function) == lines


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """Who imports whom, imports within functions and for type checkers included."""
    return grimp.build_graph("offramp", "edge_node", "cloud_node", "offramp_dashboard", cache_dir=None)


def test_every_part_of_the_library_is_in_a_layer(graph: grimp.ImportGraph) -> None:
    missing = graph.find_children("offramp") - layers()
    assert not missing, (
        f"{', '.join(sorted(missing))}: in no layer of [tool.importlinter] in pyproject.toml, "
        "so it may import anything; add it to the layer it belongs to"
    )


def test_no_module_is_in_a_circle_of_imports(graph: grimp.ImportGraph) -> None:
    assert graph.direct_import_exists(importer="edge_node.app", imported="offramp.serving.node")
    circle = circle_in(graph)
    assert not circle, f"a circle of imports: {' -> '.join(circle)}; move what they share to a layer below"


def test_a_circle_is_told_in_the_order_of_its_imports() -> None:
    graph = grimp.ImportGraph()
    for importer, imported in ("ab", "bc", "cd", "db", "ce"):
        graph.add_import(importer=importer, imported=imported)
    circle = circle_in(graph)
    assert set(pairwise(circle)) == {("b", "c"), ("c", "d"), ("d", "b")}
    assert circle[0] == circle[-1]
