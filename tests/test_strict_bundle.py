"""A bundle that tries to reach beyond its own hashed bytes, or to keep a node from starting."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from offramp.bundle import Bundle, load_bundle
from offramp.bundle.graphs import GraphError, check_graph
from offramp.bundle.manifest import bundle_id_for
from offramp.errors import BundleError
from tests.test_bundle import check_refused


@pytest.fixture
def copy(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    """A bundle that a test may spoil."""
    return Path(shutil.copytree(tiny_bundle.directory, tmp_path / "copy"))


def with_graph(directory: Path, graph: bytes) -> None:
    """Give block 1 another graph, and the manifest its hash."""
    manifest = load_bundle(directory).manifest
    block = manifest.blocks[0].model_copy(update={"sha256": hashlib.sha256(graph).hexdigest()})
    changed = manifest.model_copy(update={"blocks": (block, *manifest.blocks[1:])})
    changed = changed.model_copy(update={"bundle_id": bundle_id_for(changed)})
    (directory / block.file).write_bytes(graph)
    (directory / "bundle.json").write_text(changed.model_dump_json())


def model(*nodes: onnx.NodeProto, tensors: list[Any] | None = None, **more: Any) -> onnx.ModelProto:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 4])
    graph = helper.make_graph(list(nodes), "g", [value], [], tensors or [])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.example", 1)]
    return helper.make_model(graph, opset_imports=opsets, **more)


def elsewhere(name: str = "weights") -> onnx.TensorProto:
    tensor = numpy_helper.from_array(np.ones(4, np.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    return tensor


def sparse() -> onnx.SparseTensorProto:
    return helper.make_sparse_tensor(elsewhere(), numpy_helper.from_array(np.arange(4)), [4])


def looping() -> onnx.ModelProto:
    body = helper.make_graph([helper.make_node("Add", ["a", "a"], ["b"])], "body", [], [])
    return model(helper.make_node("Loop", ["n", "", "x"], ["y"], body=body))


def function() -> onnx.FunctionProto:
    inner = helper.make_node("Add", ["a", "a"], ["b"])
    return helper.make_function("com.example", "Twice", ["a"], ["b"], [inner], [helper.make_opsetid("", 20)])


class TestGraphs:
    @pytest.mark.parametrize(
        ("graph", "says"),
        [
            (lambda: model(tensors=[elsewhere()]), "in another file"),
            (lambda: model(helper.make_node("Constant", [], ["c"], value=elsewhere())), "in another file"),
            (lambda: model(helper.make_node("C", [], ["c"], values=[elsewhere()])), "in another file"),
            (lambda: model(helper.make_node("Constant", [], ["c"], sparse_value=sparse())), "another file"),
            (looping, "Loop or If"),
            (lambda: model(helper.make_node("If", ["x"], ["y"], then_branch=looping().graph)), "Loop or If"),
            (lambda: model(helper.make_node("Any", ["x"], ["y"], domain="com.example")), "com.example"),
            (lambda: model(helper.make_node("EPContext", [], [], domain="com.microsoft")), "reads another"),
            (lambda: model(functions=[function()]), "functions of its own"),
        ],
    )
    def test_that_reach_beyond_their_bytes_or_loop_are_refused(
        self, graph: Callable[[], onnx.ModelProto], says: str
    ) -> None:
        with pytest.raises(GraphError, match=says):
            check_graph(graph().SerializeToString())

    def test_in_two_parts_are_checked_in_both(self) -> None:
        # A parser joins them, because a message may be written in parts.
        with pytest.raises(GraphError, match="Loop"):
            check_graph(model().SerializeToString() + looping().SerializeToString())

    @pytest.mark.parametrize(
        "data", [b"", b"ORTM", b"\x08\x07", b"<?xml version='1.0'?><net/>", b"\xff" * 99]
    )
    def test_that_are_none_are_refused(self, data: bytes) -> None:
        with pytest.raises(GraphError):
            check_graph(data)

    def test_of_a_network_pass(self, tiny_bundle: Bundle) -> None:
        for graph in tiny_bundle.graphs.values():
            check_graph(graph)

    def test_are_checked_before_any_runtime_sees_them(
        self, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "weights.bin").write_bytes(np.ones(4, np.float32).tobytes())
        with_graph(copy, model(tensors=[elsewhere()]).SerializeToString())
        check_refused(copy, "block-1.onnx is not a graph that can be served", "in another file")


class TestFiles:
    @pytest.mark.parametrize("name", ["bundle.json", "block-2.onnx", "bundle.sig"])
    def test_a_symbolic_link_is_not_followed(self, copy: Path, name: str, tmp_path: Path) -> None:
        if (copy / name).exists():
            (copy / name).rename(tmp_path / name)
        (copy / name).symlink_to(tmp_path / name)
        check_refused(copy, name, "a symbolic link, expected a regular file")

    @pytest.mark.parametrize("name", ["bundle.json", "block-2.onnx", "bundle.sig"])
    @pytest.mark.parametrize(
        ("make", "says"),
        [(os.mkfifo, "a FIFO"), (Path.mkdir, "a directory"), (lambda path: bind(path), "socket")],
    )
    def test_what_is_no_file_is_not_waited_for(
        self, copy: Path, name: str, make: Callable[[Path], object], says: str
    ) -> None:
        (copy / name).unlink(missing_ok=True)
        make(copy / name)
        check_refused(copy, name, says, "expected a regular file")

    @pytest.mark.parametrize(("name", "limit"), [("bundle.json", 16 << 20), ("block-2.onnx", 2 << 30)])
    def test_a_file_without_end_is_not_read(self, copy: Path, name: str, limit: int) -> None:
        with (copy / name).open("r+b") as file:
            file.truncate(1 << 40)  # which takes no space on disk
        check_refused(copy, name, f"expected at most {limit}")

    def test_a_manifest_that_says_something_twice(self, copy: Path) -> None:
        text = (copy / "bundle.json").read_text()
        (copy / "bundle.json").write_text(text.replace('"name"', '"labels": [],\n "name"', 1))
        check_refused(copy, "bundle.json is not JSON", "'labels' is in it twice")

    @pytest.mark.parametrize("text", ["[" * 1_000_000, '{"format_version": NaN}', "{" * 200_000])
    def test_a_manifest_that_is_nested_without_end_or_has_no_numbers(self, copy: Path, text: str) -> None:
        (copy / "bundle.json").write_text(text)
        check_refused(copy, "bundle.json is not JSON")

    def test_whatever_happens_to_its_name_the_bytes_are_those_that_were_checked(self, copy: Path) -> None:
        found = load_bundle(copy)
        assert json.loads(found.manifest_bytes) == json.loads((copy / "bundle.json").read_bytes())
        for block in found.manifest.blocks:
            assert hashlib.sha256(found.graphs[block.number]).hexdigest() == block.sha256


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        old = Path.cwd()
        os.chdir(path.parent)  # a socket's path may have some hundred characters only
        try:
            listening.bind(path.name)
        finally:
            os.chdir(old)


def test_an_error_of_a_bundle_is_of_its_own_kind(copy: Path) -> None:
    (copy / "bundle.json").unlink()
    with pytest.raises(BundleError):
        load_bundle(copy)
