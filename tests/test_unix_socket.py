"""An edge node that listens on a Unix socket: real processes, and files that are in the way."""

from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np
import pytest

from offramp.bundle import Bundle
from offramp.cli.processes import node_process
from offramp.errors import ConfigError
from offramp.serving.listening import listening_file
from tests.nodes import png

PHOTO = png(np.zeros((8, 8, 3), np.uint8))


def answer(file: Path) -> httpx.Response:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(file)), base_url="http://localhost") as client:
        return client.post("/v1/predict", content=PHOTO, headers={"content-type": "image/png"}, timeout=10)


@pytest.mark.parametrize("processes", [1, 2])
def test_an_edge_node_answers_on_a_unix_socket_and_removes_it_in_the_end(
    tiny_bundle: Bundle, tmp_path: Path, processes: int
) -> None:
    file = tmp_path / "edge.sock"
    arguments = [str(tiny_bundle.directory), "--unix-socket", str(file), "--processes", str(processes)]
    with node_process("edge_node", arguments, name="edge") as node:
        assert node.address == f"unix:{file}"
        found = [answer(file) for _ in range(5)]
        assert [each.status_code for each in found] == [200] * 5
    assert not file.exists()


def test_what_a_killed_node_left_is_replaced(tiny_bundle: Bundle, tmp_path: Path) -> None:
    file = tmp_path / "edge.sock"
    arguments = [str(tiny_bundle.directory), "--unix-socket", str(file)]
    with node_process("edge_node", arguments, name="edge") as node:
        node.kill()
        node.wait()
        assert file.is_socket()
    with node_process("edge_node", arguments, name="edge"):
        assert answer(file).status_code == 200


def test_a_socket_in_use_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "a.sock"
    with (
        listening_file(file, instead="another one"),
        pytest.raises(ConfigError, match="Address already in use; choose another one"),
        listening_file(file, instead="another one"),
    ):
        pass
    assert not file.exists()


@pytest.mark.parametrize(
    ("name", "says"), [("file", "it is no socket"), ("none/x", "No such file"), ("a" * 120, "too long")]
)
def test_a_file_that_cannot_be_one_is_refused_and_kept(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "file").write_text("kept")
    with (
        pytest.raises(ConfigError, match=says),
        listening_file(tmp_path / name, instead="another one"),
    ):
        pass
    assert (tmp_path / "file").read_text() == "kept"
