"""More requests than a node can answer, from clients that ask again at once (row 16): wrk asks, a prober measures."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from tests.chaos import files
from tests.chaos.load import Seen, Tally, ask, client_of
from tests.chaos.nodes import Memory, Node
from tests.chaos.stage import MEMORY_MB, Check, Outcome, Scenario, Stage

_GOODPUT, _REFUSAL_MS = 0.9, 5.0
_POLITE, _RETRY_AFTER_S = 10, 1.0
_SCRIPT = """
local file = io.open("%s", "rb"); local photo = file:read("*a"); file:close()
wrk.method = "POST"; wrk.body = photo; wrk.headers["content-type"] = "image/jpeg"
local pause = tonumber(os.getenv("PAUSE_MS"))
-- A random pause, so that all connections together keep to a rate whether they are answered or refused.
if pause > 0 then function delay() return math.random() * 2 * pause end end
local threads = {}
function setup(thread) table.insert(threads, thread) end
function init() good = 0 end
function response(status) if status == 200 then good = good + 1 end end
function done(summary)
  local good = 0
  for _, thread in ipairs(threads) do good = good + thread:get("good") end
  print(string.format("GOOD %%d %%d %%d", good, summary.requests, summary.duration))
end
"""


async def overload(stage: Stage, clients: int, *edge: str, times: float | None = None) -> Outcome:
    """Ask for `times` the best rate over all connections; without it, each asks again as soon as it has its answer."""
    if shutil.which("wrk") is None:
        return Outcome([Check("wrk is installed", holds=False, found="it is not; apt-get install wrk")])
    node = stage.edge("--workers", "1", *edge)
    with _cores_of_their_own(node):
        return await _overloaded(stage, node, clients, times)


@contextmanager
def _cores_of_their_own(node: Node) -> Iterator[None]:
    """Leave the node one core, and everybody else the others: clients have machines of their own."""
    cores = sorted(os.sched_getaffinity(0))
    for each in node.processes():
        each.cpu_affinity(cores[:1])
    os.sched_setaffinity(0, cores[1:] or cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


async def _overloaded(stage: Stage, node: Node, clients: int, times: float | None) -> Outcome:
    script = stage.folder / "ask.lua"
    photo = stage.folder / "photo.jpg"
    photo.write_bytes(files.photos()[0])
    script.write_text(_SCRIPT % photo, encoding="utf-8")
    best = 0.0
    for few in (4, 8):
        rate, _ = await asyncio.to_thread(_wrk, node.url, script, few, stage.seconds(8, 3))
        best = max(best, rate)
    pause_ms = 1000 * clients / (times * best) if times else 0.0
    memory = Memory([node])
    asking = asyncio.create_task(
        asyncio.to_thread(_wrk, node.url, script, clients, stage.seconds(60, 6), pause_ms)
    )
    await asyncio.sleep(1)
    seen = await _probe(node.url, asking)
    good, asked = await asking
    refusals = [each.ms for each in seen if each.kind == "refused"] or [float("nan")]
    refused_ms, tally, peak = float(np.median(refusals)), Tally.of(seen), memory.stop()
    # A rate that is given leaves the node time for each refusal; without a rate, clients take all that there is. No
    # refusal at all is no number, and holds no bar.
    timed = [Check(f"a refusal takes at most {_REFUSAL_MS:g} ms (median)", refused_ms <= _REFUSAL_MS,
                   f"{refused_ms:.1f} ms of {tally.refused}")]  # fmt: skip
    return Outcome(
        [
            *(timed if times else []),
            Check(f"goodput at least {_GOODPUT:.0%} of the best", good >= _GOODPUT * best,
                  f"{good:.0f} of {best:.0f} a second, beside {asked - good:.0f} refusals"),
            Check("no request is lost", tally.lost == 0, f"{tally.lost} of {tally.sent}; {tally.details}"),
            Check(f"at most {MEMORY_MB} MiB", peak <= MEMORY_MB, f"{peak:.0f} MiB"),
        ],
        during=tally, attacked=round(asked * stage.seconds(60, 6)), memory_mb=peak,
    )  # fmt: skip


def _wrk(url: str, script: Path, clients: int, seconds: float, pause_ms: float = 0) -> tuple[float, float]:
    """Answers of status 200 and requests in all, a second."""
    command = [
        "wrk",
        "-t1",
        f"-c{clients}",
        f"-d{seconds:g}s",
        "--timeout=30s",
        "-s",
        str(script),
        f"{url}/v1/predict",
    ]
    variables = {**os.environ, "PAUSE_MS": f"{pause_ms:g}"}
    said = subprocess.run(command, check=True, capture_output=True, text=True, env=variables).stdout
    found = re.search(r"^GOOD (\d+) (\d+) (\d+)$", said, re.MULTILINE)
    assert found, said
    good, asked, microseconds = map(int, found.groups())
    return good / microseconds * 1e6, asked / microseconds * 1e6


async def _probe(url: str, while_running: asyncio.Task[tuple[float, float]]) -> list[Seen]:
    """Ask over connections that stay, each once a second: as often as Retry-After allows."""
    seen = []

    async def ask_politely(number: int) -> None:
        async with client_of(url) as client:
            await asyncio.sleep(number / _POLITE)
            while not while_running.done():
                seen.append(await ask(client, files.photos()[0]))
                await asyncio.sleep(_RETRY_AFTER_S)

    await asyncio.gather(*map(ask_politely, range(_POLITE)))
    return seen


SCENARIOS = [
    Scenario(16, "overload", "10 times what a node takes, over 200 connections, Retry-After ignored",
             lambda stage: overload(stage, 200, "--max-pending", "8", times=10)),
    Scenario(16, "greedy-clients", "200 clients that ask again at once, room for 8 requests",
             lambda stage: overload(stage, 200, "--max-pending", "8")),
    Scenario(16, "many-connections", "2,000 clients that ask again at once", partial(overload, clients=2000)),
]  # fmt: skip
