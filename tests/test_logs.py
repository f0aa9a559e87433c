"""Logs that nobody reads, or that nobody can read any more, and the last lines of a process."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from offramp.bundle import Bundle
from offramp.cli.processes import node_process
from offramp.logs import UnwaitedHandler, lost_lines
from offramp.serving.access.authority import Authority, write
from offramp.serving.metrics import NodeMetrics
from tests.commands import offramp
from tests.conftest import FASHION_BUNDLE, ROOT, SAMPLES
from tests.nodes import first_photo

SMALLEST_PIPE = 4096


@contextmanager
def logging_to(handler: UnwaitedHandler) -> Iterator[logging.Logger]:
    log = logging.Logger("test")
    log.addHandler(handler)
    try:
        yield log
    finally:
        handler.close()


@contextmanager
def node_with_unread_log(
    *more: str, module: str = "edge_node"
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A node whose log is read up to `event=ready`, and its address."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, SMALLEST_PIPE)
    command = [sys.executable, "-m", module, "models/b-lenet-fashion", "--port", "0", *more]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stderr=writing, stdout=subprocess.PIPE, text=True
    ) as edge:
        os.close(writing)
        edge.stderr = os.fdopen(reading)
        try:
            for line in edge.stderr:
                if found := re.search(r"event=ready .*\baddress=(\S+)", line):
                    yield edge, found[1]
                    break
        finally:
            edge.kill()


def ask(address: str, times: int) -> None:
    photo = first_photo(SAMPLES, "bag")
    with httpx.Client(base_url=f"http://{address}", timeout=5, trust_env=False) as client:
        for _ in range(times):
            assert client.post("/v1/predict", content=photo).status_code == 200


def test_a_node_answers_while_nobody_reads_its_log() -> None:
    with node_with_unread_log() as (edge, address):
        ask(address, 100)
        edge.terminate()
        assert edge.stderr is not None
        said = edge.stderr.read().splitlines()
        assert edge.wait(10) == 0
    assert sum("event=answered" in line for line in said) == 100


def test_a_node_outlives_who_read_its_log() -> None:
    with node_with_unread_log() as (edge, address):
        assert edge.stderr is not None
        edge.stderr.close()
        ask(address, 20)
        counted = httpx.get(f"http://{address}/metrics", trust_env=False).text
        lost = re.search(r"^offramp_log_lines_lost_total (\S+)", counted, re.MULTILINE)
        assert lost and float(lost[1]) >= 10
        edge.terminate()
        assert edge.wait(10) == 0


def test_a_node_ends_in_time_although_nobody_reads_its_last_lines() -> None:
    with node_with_unread_log() as (edge, address):
        ask(address, 100)
        edge.terminate()
        assert edge.wait(5) == 0


def test_handshakes_that_fail_do_not_stop_a_cloud_node_whose_log_nobody_reads(tmp_path: Path) -> None:
    authority = Authority.made(1)
    certificate, key = authority.issue("cloud", ("127.0.0.1",), days=1)
    write(tmp_path / "cloud.pem", certificate)
    write(tmp_path / "cloud.key", key, secret=True)
    files = ["--tls-cert", str(tmp_path / "cloud.pem"), "--tls-key", str(tmp_path / "cloud.key")]
    with node_with_unread_log(*files, module="cloud_node") as (cloud, address):
        host, _, port = address.rpartition(":")
        for _ in range(60):
            with socket.create_connection((host, int(port)), timeout=5) as plain:
                plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
                plain.recv(100)
        cloud.terminate()
        assert cloud.wait(10) == 0


def test_lost_lines_are_counted_and_told_where_they_are_missing() -> None:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, SMALLEST_PIPE)
    before = lost_lines.total
    with (
        os.fdopen(reading) as log_file,
        os.fdopen(writing, "w") as stream,
        logging_to(UnwaitedHandler(stream, most_held=10_000)) as log,
    ):
        for number in range(1000):
            log.info("line %d %s", number, "x" * 90)
        lost = lost_lines.total - before
        assert 700 < lost < 1000  # the rest is in the pipe and with the writer
        due = 0
        while due < 1000:
            line = log_file.readline()
            if told := re.match(r"event=log_lines_lost lines=(\d+) ", line):
                due += int(told[1])
            else:
                assert line.startswith(f"line {due} ")
                due += 1


def test_an_error_is_written_at_once_and_lines_stay_whole_in_a_shared_pipe() -> None:
    reading, writing = os.pipe()
    with (
        os.fdopen(reading, "rb", buffering=0) as log_file,
        os.fdopen(writing, "w") as stream,
        logging_to(UnwaitedHandler(stream)) as log,
    ):
        log.info("first")
        assert log_file.read(100) == b"first\n"
        for _ in range(5):
            log.info("x" * 1500)
        log.error("last")
        log.handlers[0].flush()
        told = log_file.read(1 << 16)
    assert told is not None and told.endswith(b"x\nlast\n") and len(told.splitlines()) == 6


def test_a_fork_writes_its_lines_too() -> None:
    program = (
        "import logging, os; from offramp.logs import start_logging; start_logging()\n"
        "logging.info('from the parent')\n"
        "if (child := os.fork()) == 0: logging.info('from the fork'); os._exit(0)\n"
        "os.waitpid(child, 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert sorted(line.partition("from the ")[2] for line in done.stderr.splitlines()) == ["fork", "parent"]


def test_the_last_lines_before_a_crash_are_written() -> None:
    program = (
        "import logging, warnings; from offramp.logs import start_logging; start_logging()\n"
        "warnings.warn('odd')\n"
        "for n in range(500): logging.info('line %d', n)\n"
        "raise RuntimeError('crash')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "RuntimeError: crash" in done.stderr
    assert " WARNING py.warnings " in done.stderr  # a warning does not go around the log
    assert sum(" line " in line for line in done.stderr.splitlines() if "INFO" in line) == 500


def test_the_error_of_a_command_comes_after_its_log_lines(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edge_node", str(tmp_path / "none")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "EDGE_LOG_LEVEL": "DEBUG", "EDGE_SOMETHING_ELSE": "1"},
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ")


def test_each_lost_line_is_counted_in_the_metrics(tiny_bundle: Bundle) -> None:
    metrics = NodeMetrics(tiny_bundle.manifest)
    name = b"offramp_log_lines_lost_total"
    (before,) = (float(row.split()[1]) for row in metrics.text().splitlines() if row.startswith(name))
    lost_lines.add(3)
    (after,) = (float(row.split()[1]) for row in metrics.text().splitlines() if row.startswith(name))
    assert after - before == 3


def test_logging_a_line_does_not_wait_for_its_reader() -> None:
    reading, writing = os.pipe()
    with (
        os.fdopen(reading),
        os.fdopen(writing, "w") as stream,
        logging_to(UnwaitedHandler(stream, most_held=100_000)) as log,
    ):
        began = time.monotonic()
        for _ in range(5000):
            log.info("x" * 200)
        assert time.monotonic() - began < 2


def test_a_cloud_node_logs_a_handshake_that_fails_and_why(tmp_path: Path) -> None:
    offramp("certs", str(tmp_path), "--node", "cloud")
    files = ["--tls-cert", str(tmp_path / "cloud.pem"), "--tls-key", str(tmp_path / "cloud.key")]
    said: list[str] = []
    refused = threading.Event()

    def hear(text: str) -> None:
        said.append(text)
        if "tls_refused" in text:
            refused.set()

    arguments = [str(FASHION_BUNDLE), "--port", "0", *files]
    with node_process("cloud_node", arguments, name="cloud", show=hear) as cloud:
        host, _, port = cloud.address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=5) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            plain.recv(100)
        assert refused.wait(10)
    lines = [text for text in said if "tls_refused" in text]
    assert len(lines) == 1 and "HTTP_REQUEST" in lines[0]
    assert not [text for text in said if "not suitable" in text]
