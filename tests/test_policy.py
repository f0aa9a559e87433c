"""Where θ in force are kept: nothing is torn, nothing is lost, and a file that does not fit stops no node."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pickle
import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_node.policy import Policy
from offramp.bundle import Bundle
from offramp.cli.processes import NodeProcess, node_process
from tests.nodes import running_edge
from tests.test_processes import check_one_clear_line, run_node

DEFAULT = (0.81, 0.43)  # of the tiny bundle


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "policy.json"


def asked(node: NodeProcess, thetas: Sequence[float] | None = None) -> dict[str, object]:
    """The policy that a node says is in force, after a change if θ are given."""
    url = f"http://{node.address}/v1/policy"
    given = {"json": {"thetas": thetas}} if thetas else {}
    response = httpx.request("PUT" if thetas else "GET", url, timeout=20, trust_env=False, **given)  # type: ignore[arg-type]
    answer: dict[str, object] = response.raise_for_status().json()
    return answer


@pytest.mark.parametrize("processes", ["1", "2"])
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_change_outlives_a_node_that_is_killed_or_stopped(
    tiny_bundle: Bundle, file: Path, monkeypatch: pytest.MonkeyPatch, processes: str, end: signal.Signals
) -> None:
    arguments = [str(tiny_bundle.directory), "--port", "0", "--processes", processes]
    monkeypatch.setenv("EDGE_POLICY_FILE", str(file))
    with node_process("edge_node", arguments, name="edge") as first:
        assert asked(first)["outlives_restart"] is True
        asked(first, [0.25, 0.75])
        os.kill(first.pid, end)
        first.wait()
    logged: list[str] = []
    with node_process("edge_node", arguments, name="edge", show=logged.append) as second:
        found = asked(second)
    assert (found["thetas"], found["operating_point"]) == ([0.25, 0.75], None)
    assert sum("event=policy_kept" in line for line in logged) == 1


def test_without_a_file_a_change_ends_with_the_node_which_says_so(tiny_bundle: Bundle) -> None:
    arguments = [str(tiny_bundle.directory), "--port", "0"]
    for _ in range(2):
        with node_process("edge_node", arguments, name="edge") as node:
            found = asked(node)
            assert found["thetas"] == list(DEFAULT) and found["outlives_restart"] is False
            asked(node, [0.25, 0.75])


def test_a_file_of_another_bundle_is_said_once_and_left_as_it_is(
    tiny_bundle: Bundle, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = '{"bundle": "other-0123456789ab", "thetas": [0.5, 0.5]}'
    file.write_text(before)
    logged: list[str] = []
    arguments = [str(tiny_bundle.directory), "--port", "0", "--processes", "2"]
    monkeypatch.setenv("EDGE_POLICY_FILE", str(file))
    with node_process("edge_node", arguments, name="edge", show=logged.append) as node:
        assert asked(node)["thetas"] == list(DEFAULT)
    ignored = [line for line in logged if "event=policy_ignored" in line]
    assert len(ignored) == 1 and "other-0123456789ab" in ignored[0] and str(file) in ignored[0]
    assert file.read_text() == before


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "Invalid JSON"),
        ("rubbish", "Invalid JSON"),
        ("[]", "object"),
        ('{"bundle": "BUNDLE", "thetas": [0.5]}', "needs 2"),
        ('{"bundle": "BUNDLE", "thetas": [0.5, 1.5]}', "theta of exit 2 is 1.5"),
        ('{"bundle": "BUNDLE", "thetas": [0.5, "0.5"]}', "thetas.1"),
        ('{"bundle": "BUNDLE"}', "either thetas or operating_point"),
        ('{"bundle": "BUNDLE", "operating_point": "gone"}', "no operating point 'gone'"),
        ('{"thetas": [0.5, 0.5]}', "bundle: Field required"),
        ('{"bundle": "BUNDLE", "thetas": [0.5, 0.5], "more": 1}', "more"),
        ('{"bundle": "' + "x" * 100_000 + '"}', "Invalid JSON"),
    ],
)
def test_a_file_that_does_not_fit_gives_the_bundles_default(
    tiny_bundle: Bundle, file: Path, caplog: pytest.LogCaptureFixture, text: str, says: str
) -> None:
    file.write_text(text.replace("BUNDLE", tiny_bundle.manifest.bundle_id))
    with caplog.at_level(logging.INFO):
        policy = Policy(tiny_bundle.manifest, file)
        assert policy.state.thetas == DEFAULT
    assert len(caplog.records) == 1 and says in caplog.text
    policy.set_thetas([0.5, 0.5])
    assert Policy(tiny_bundle.manifest, file).state.thetas == (0.5, 0.5)


def test_an_operating_point_is_kept_by_its_name(tiny_bundle: Bundle, file: Path) -> None:
    Policy(tiny_bundle.manifest, file).choose("full")
    kept = json.loads(file.read_text())
    assert kept == {"bundle": tiny_bundle.manifest.bundle_id, "operating_point": "full"}
    assert Policy(tiny_bundle.manifest, file).state.operating_point == "full"


def test_two_processes_see_the_same_change_at_once(tiny_bundle: Bundle, file: Path) -> None:
    one = Policy(tiny_bundle.manifest, file)
    other: Policy = pickle.loads(pickle.dumps(one))
    for number in range(30):
        changed, seen = (one, other) if number % 2 else (other, one)
        changed.set_thetas([number / 30, 0.5])
        assert one.state == seen.state == changed.state and seen.state.thetas == (number / 30, 0.5)


def test_what_was_said_holds_when_the_file_is_spoilt_or_taken_away(tiny_bundle: Bundle, file: Path) -> None:
    policy = Policy(tiny_bundle.manifest, file)
    policy.set_thetas([0.25, 0.75])
    assert policy.state.thetas == (0.25, 0.75)
    file.write_text("rubbish")
    looked_again(policy)
    assert policy.state.thetas == (0.25, 0.75)
    file.unlink()
    looked_again(policy)
    assert policy.state.thetas == (0.25, 0.75)


def looked_again(policy: Policy) -> None:
    policy._look_at = 0.0  # noqa: SLF001 - rather than wait until it looks by itself
    _ = policy.state


def test_no_reader_sees_half_a_change_however_many_write(tiny_bundle: Bundle, file: Path) -> None:
    # Of each whole change both θ are the same number, and each is another number.
    done = Event()

    def write(writer: int) -> None:
        policy = Policy(tiny_bundle.manifest, file)
        for number in range(40):
            policy.set_thetas([(writer * 40 + number) / 200] * 2)

    def read() -> set[tuple[float, ...]]:
        policy, seen = Policy(tiny_bundle.manifest, file), set()
        while not done.is_set():
            looked_again(policy)
            seen.add(policy.state.thetas)
        return seen

    Policy(tiny_bundle.manifest, file).set_thetas([1.0, 1.0])
    with ThreadPoolExecutor(6) as threads:
        readers = [threads.submit(read) for _ in range(2)]
        list(threads.map(write, range(4)))
        done.set()
        seen = set().union(*(reader.result() for reader in readers))
    assert len(seen) > 10 and all(first == second for first, second in seen)
    assert [path.name for path in file.parent.iterdir()] == ["policy.json"]


@given(changes=st.lists(st.tuples(st.integers(0, 2), st.floats(0, 1), st.booleans()), max_size=12))
def test_each_process_decides_by_the_latest_change(
    tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, float, bool]]
) -> None:
    file = tmp_path_factory.mktemp("policy") / "policy.json"
    policies = [Policy(tiny_bundle.manifest, file) for _ in range(3)]
    for writer, theta, by_name in changes:
        if by_name:
            policies[writer].choose("full")
        else:
            policies[writer].set_thetas([theta, theta])
        expected = DEFAULT if by_name else (theta, theta)
        assert [policy.state.thetas for policy in policies] == [expected] * 3
    assert Policy(tiny_bundle.manifest, file).state == policies[0].state


async def test_a_change_that_cannot_be_written_is_refused_and_changes_nothing(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    folder = tmp_path / "away"
    folder.mkdir()
    async with running_edge(tiny_bundle, blocks="1-3", policy_file=folder / "policy.json") as client:
        before = (await client.get("/v1/policy")).json()
        folder.rmdir()
        response = await client.put("/v1/policy", json={"thetas": [0.5, 0.5]})
        assert (await client.get("/v1/policy")).json() == before
    assert response.status_code == 500 and response.json()["code"] == "not_kept"
    assert (
        str(folder / "policy.json") in response.json()["error"] and "No such file" in response.json()["error"]
    )


async def test_changes_that_come_together_leave_a_node_and_its_file_of_one_mind(
    tiny_bundle: Bundle, file: Path
) -> None:
    async with running_edge(tiny_bundle, blocks="1-3", policy_file=file) as client:
        puts = [client.put("/v1/policy", json={"thetas": [number / 20] * 2}) for number in range(20)]
        assert {response.status_code for response in await asyncio.gather(*puts)} == {200}
        in_force = (await client.get("/v1/policy")).json()["thetas"]
    assert in_force == json.loads(file.read_text())["thetas"]


@pytest.mark.parametrize("name", ["nowhere/policy.json", ".", "/dev/null"])
def test_a_file_that_could_never_be_written_stops_the_start(
    tiny_bundle: Bundle, tmp_path: Path, name: str
) -> None:
    result = run_node("edge_node", str(tiny_bundle.directory), EDGE_POLICY_FILE=str(tmp_path / name))
    check_one_clear_line(result, "EDGE_POLICY_FILE", "make the folder first")
