"""`offramp up` as a person types it: both nodes and the page, however it ends."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from offramp.bundle import load_bundle
from offramp.cli.up import samples_of
from offramp.errors import DataError
from tests.commands import check_refused, offramp
from tests.conftest import FASHION_BUNDLE, ROOT, SAMPLES


class TestUp:
    def test_it_classifies_serves_and_leaves_no_process_behind(self) -> None:
        process = start_up()
        try:
            shown = read_until(process, "serving until Ctrl-C")
            assert re.search(r"50 photos, \d+\.\d% right, 0 degraded", shown)
            assert "exit-1" in shown and "exit-2" in shown
            assert "RuntimeWarning" not in shown
            ask_as_it_says(shown)
            read_the_page(shown)
            children = children_of(process.pid)
            assert len(children) == 3
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
        finally:
            process.kill()
            assert process.stdout is not None
            process.stdout.close()
        assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]

    def test_it_says_when_the_cloud_node_ends_and_ends_with_the_edge_node(self) -> None:
        process = start_up()
        assert process.stdout is not None
        with process.stdout:
            shown = read_until(process, "serving until Ctrl-C")
            edge, cloud = (int(pid) for pid in re.findall(r"pid (\d+)", shown))
            os.kill(cloud, signal.SIGKILL)
            assert "offramp cloud models/b-lite0-grocery --port" in read_until(
                process, "the cloud node ended"
            )
            os.kill(edge, signal.SIGKILL)
            assert process.wait(20) == 2

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
    def test_however_it_ends_the_nodes_end_too(self, number: signal.Signals) -> None:
        if signal.getsignal(number) is signal.SIG_IGN:
            pytest.skip("this run ignores the signal, as under nohup, and what it starts does so too")
        process = start_up()
        assert process.stdout is not None
        with process.stdout:
            read_until(process, "serving until Ctrl-C")
            children = children_of(process.pid)
            process.send_signal(number)
            process.wait(20)
        deadline = time.monotonic() + 10
        while any(is_alive(pid) for pid in children) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not [pid for pid in children if is_alive(pid)]

    def test_photos_that_ship_are_found_by_their_classes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(ROOT)
        assert samples_of(load_bundle(FASHION_BUNDLE).manifest.labels) == Path("samples/fashion-mnist")
        with pytest.raises(DataError, match=r"samples/ has no photos of 0, 1, 2 .*--photos"):
            samples_of([str(number) for number in range(10)])

    def test_photos_that_are_not_there_are_named(self, tmp_path: Path) -> None:
        result = offramp("up", FASHION_BUNDLE, "--photos", tmp_path)
        check_refused(result, str(tmp_path), "--photos")

    def test_a_node_that_cannot_start_ends_it_with_that_nodes_words(self) -> None:
        result = subprocess.run(
            [sys.executable, "-m", "offramp.cli", "up", "--cloud-port", "1", "--edge-port", "0"],
            cwd=ROOT,
            env={**os.environ, "CLOUD_HOST": "203.0.113.1"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert result.returncode == 2
        assert "the cloud node did not start: cannot listen on 203.0.113.1:1" in result.stderr

    def test_folders_of_the_current_directory_do_not_pass_for_the_nodes(self, tmp_path: Path) -> None:
        for name in (
            "dashboard",
            "edge_node",
            "cloud_node",
            "offramp_dashboard",
            "offramp",
            "uvicorn",
            "logging",
        ):
            (tmp_path / name).mkdir()
            (tmp_path / name / "__init__.py").write_text(
                "raise SystemExit('imported from the current directory')"
            )
        options = ["--once", "--edge-port", "0", "--cloud-port", "0", "--photos", str(SAMPLES)]
        result = subprocess.run(
            [Path(sys.executable).with_name("offramp"), "up", str(FASHION_BUNDLE), *options],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        assert "500 photos" in result.stdout


def start_up() -> subprocess.Popen[str]:
    ports = ["--edge-port", "0", "--cloud-port", "0", "--dashboard-port", "0"]
    return subprocess.Popen(
        [sys.executable, "-m", "offramp.cli", "up", *ports], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def read_until(process: subprocess.Popen[str], text: str) -> str:
    assert process.stdout is not None
    shown = ""
    for line in process.stdout:
        shown += line
        if text in line:
            return shown
    raise AssertionError(f"ended without '{text}': {shown}")


def ask_as_it_says(shown: str) -> None:
    found = re.search(r"try +(curl .*)", shown)
    assert found
    _, _, file, address = shlex.split(found[1])
    response = httpx.post(address, content=(ROOT / file.removeprefix("@")).read_bytes(), trust_env=False)
    assert response.json()["label"] == Path(file).parent.name


def read_the_page(shown: str) -> None:
    found = re.search(r"page +(http://\S+)", shown)
    assert found
    assert "Offramp" in httpx.get(found[1], trust_env=False, timeout=20).text


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
