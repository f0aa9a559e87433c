"""The package as people get it: a wheel in an empty environment, and what it says when a part is missing."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from offramp.bundle import load_bundle
from offramp.install import how_to_install
from offramp.wire.v1 import wire_pb2 as pb
from offramp.wire.v1.wire_pb2_grpc import TierServiceStub
from tests.conftest import FASHION_BUNDLE, ROOT

_COMMIT = {"vcs": "git", "commit_id": "f00d"}


@pytest.mark.parametrize(
    ("origin", "asks_for"),
    [
        (None, ["offramp[edge]"]),
        ({"url": "file:///src/off%20ramp", "dir_info": {"editable": True}}, ["-e", "/src/off ramp[edge]"]),
        ({"url": "file:///src/offramp", "dir_info": {}}, ["/src/offramp[edge]"]),
        (
            {"url": "file:///dist/offramp-1-any.whl", "archive_info": {}},
            ["/dist/offramp-1-any.whl[edge]"],
        ),
        (
            {"url": "https://host/offramp.whl", "archive_info": {}},
            ["offramp[edge] @ https://host/offramp.whl"],
        ),
        ({"url": "https://host/o.git", "vcs_info": _COMMIT}, ["offramp[edge] @ git+https://host/o.git@f00d"]),
        (
            {
                "url": "ssh://host/o",
                "vcs_info": {**_COMMIT, "requested_revision": "v1"},
                "subdirectory": "py",
            },
            ["offramp[edge] @ git+ssh://host/o@v1#subdirectory=py"],
        ),
    ],
    ids=["an index", "editable", "a directory", "a wheel", "an address", "a commit", "a tag in a folder"],
)
def test_an_extra_comes_from_where_the_package_came_from(
    origin: dict[str, Any] | None, asks_for: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "offramp-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: offramp\nVersion: 1\n")
    if origin is not None:
        (installed / "direct_url.json").write_text(json.dumps(origin))
    monkeypatch.syspath_prepend(tmp_path)
    words = shlex.split(how_to_install("edge"))
    assert words[words.index("install") + 1 :] == asks_for


def test_pip_is_this_environments_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert how_to_install("edge").startswith("pip install ")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shlex.split(how_to_install("edge"))[:4] == [sys.executable, "-m", "pip", "install"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run([sys.executable, "-m", "pip", *build], check=True, timeout=60)
    return next(folder.glob("offramp-*.whl"))


@pytest.fixture(scope="module")
def cloud_only(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment that holds the wheel, its extra `cloud`, and nothing else."""
    environment = tmp_path_factory.mktemp("cloud")
    venv.create(environment)
    python = str(environment / "bin" / "python")
    install = ["install", "--quiet", "--no-compile", "--retries", "1", f"{wheel}[cloud]"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, *install],
        capture_output=True,
        text=True,
        timeout=280,
    )
    if "connection broken" in done.stderr:
        pytest.skip("pip reaches no index to install the wheel's dependencies from")
    assert done.returncode == 0, done.stderr
    return environment / "bin"


@contextmanager
def serving(command: list[str], directory: Path) -> Iterator[str]:
    """The address a node says that it listens on, while it runs."""
    with subprocess.Popen(command, cwd=directory, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            said = ""
            for line in process.stderr:
                said += line
                if found := re.search(r"event=ready .*address=(\S+)", line):
                    yield found[1]
                    return
            raise AssertionError(said)
        finally:
            process.terminate()


@pytest.mark.timeout(300)
class TestTheWheel:
    def test_a_cloud_node_serves_from_a_directory_with_folders_of_common_names(
        self, cloud_only: Path, tmp_path: Path
    ) -> None:
        for name in ("dashboard", "offramp"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "__init__.py").write_text("raise SystemExit('imported from the directory')")
        command = [str(cloud_only / "offramp"), "cloud", str(FASHION_BUNDLE), "--port", "0"]
        with serving(command, tmp_path) as address, grpc.insecure_channel(address) as channel:
            stub: Any = TierServiceStub(channel)  # type: ignore[no-untyped-call] # generated
            described = stub.Describe(pb.DescribeRequest(), timeout=20)
        assert described.bundle_id == load_bundle(FASHION_BUNDLE).manifest.bundle_id

    def test_a_missing_part_is_asked_for_from_the_same_wheel(self, cloud_only: Path, wheel: Path) -> None:
        edge = [str(cloud_only / "offramp"), "edge", str(FASHION_BUNDLE)]
        done = subprocess.run(edge, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2
        assert f"pip install '{wheel}[edge]'" in done.stderr
