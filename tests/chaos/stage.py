"""What every scenario needs: nodes, a normal load, strangers, and a form for what was found."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from tests.chaos.confined import Confinement, confined
from tests.chaos.files import photos
from tests.chaos.load import Load, Seen, Tally
from tests.chaos.nodes import BUNDLE, Memory, Node, everything_to_the_cloud, node

MEMORY_MB = 512  # the bar for each node
# What docs/limits.md says for nodes that have so much.
_SMALL_EDGE = ("--max-buffered-bytes", "64000000", "--max-body-bytes", "16000000", "--max-pending", "64")
_FEW_CONNECTIONS = ("--max-connections", "1024")
_SMALL_CLOUD = ("--max-buffered-bytes", "32000000", "--max-streams", "2000")
Attack = Callable[..., Coroutine[Any, Any, None]]  # of HOST:PORT, what counts, and arguments of its own
SLOWER = 5  # normal photos under attack, as a multiple of their p99 at rest
_SHORT_FLOOR_MS = 150  # a short run has too few photos for a 99th percentile


@dataclass(frozen=True)
class Check:
    """One bar: what was expected, whether it held, and what was found."""

    what: str
    holds: bool
    found: str


@dataclass(frozen=True)
class Outcome:
    """What a scenario found. Figures that it doesn't have are None."""

    checks: Sequence[Check]
    rest: Tally | None = None
    during: Tally | None = None
    attacked: int | None = None  # what strangers sent
    recovery_s: float | None = None
    memory_mb: float | None = None

    @property
    def failed(self) -> list[Check]:
        """The bars that did not hold."""
        return [check for check in self.checks if not check.holds]

    def but(self, *checks: Check, **figures: Any) -> Outcome:
        """The same with more checks, and other figures."""
        return replace(self, checks=[*self.checks, *checks], **figures)


@dataclass(frozen=True)
class Scenario:
    """A row of the table of attacks and faults."""

    row: int
    name: str
    what: str
    run: Callable[[Stage], Awaitable[Outcome]]


class Stranger:
    """An attack that goes on in a process of its own, at low priority: a stranger has a machine of its own."""

    def __init__(self, attack: Attack, address: str, *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._count: Any = context.Value("q", 0)
        self._process = context.Process(
            target=_attack, args=(attack, address, self._count, *arguments), daemon=True
        )
        self._process.start()

    @property
    def sent(self) -> int:
        """How much it has sent so far."""
        return int(self._count.value)

    def until_begun(self) -> None:
        """Wait until it has sent something."""
        end = time.monotonic() + 60
        while not self.sent and self._process.is_alive() and time.monotonic() < end:
            time.sleep(0.02)

    def end(self) -> None:
        """Have it leave, with all its connections."""
        self._process.kill()
        self._process.join()


class Count:
    """Counts what a stranger sends; shared with the process that started it."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def one(self, more: int = 1) -> None:
        """Something more was sent."""
        with self._value.get_lock():
            self._value.value += more


def _attack(attack: Attack, address: str, value: Any, *arguments: Any) -> None:
    os.nice(10)
    asyncio.run(attack(address, Count(value), *arguments))


class Stage:
    """The nodes and people of one scenario; all of them have left at its end."""

    def __init__(self, folder: Path, *, short: bool) -> None:
        """Keep logs and files in `folder`; `short`: as a test, not as a measurement."""
        self.folder = folder
        self.short = short
        self.nodes: list[Node] = []
        self._groups: list[Confinement] = []
        self._stack = ExitStack()
        self._number = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def seconds(self, full: float, short: float) -> float:
        """How long something goes on."""
        return short if self.short else full

    def edge(
        self, *arguments: str, files: int | None = None, environment: Mapping[str, str] | None = None
    ) -> Node:
        """Start an edge on a free port, or on the one that `arguments` name."""
        return self._node("edge_node", arguments, files=files, environment=environment)

    def cloud(self, *arguments: str, environment: Mapping[str, str] | None = None) -> Node:
        """Start a cloud on a free port."""
        return self._node("cloud_node", arguments, environment=environment)

    def pair(self, *edge: str, all_to_cloud: bool = False, files: int | None = None) -> tuple[Node, Node]:
        """Start a cloud and an edge before it, each with the memory of the bar, if this machine can enforce that."""
        cloud = self._node("cloud_node", _SMALL_CLOUD, memory_mb=MEMORY_MB)
        arguments = ["--upstream", cloud.address, *_SMALL_EDGE, *edge]
        if files is None:
            arguments += _FEW_CONNECTIONS
        started = self._node("edge_node", arguments, files=files, memory_mb=MEMORY_MB)
        if all_to_cloud:
            everything_to_the_cloud(started)
        return started, cloud

    def run(self, module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Node:
        """Start anything; it need not come to run."""
        self._number += 1
        log = self.folder / f"{module}-{self._number}.log"
        return self._stack.enter_context(node(module, arguments, log, environment=environment))

    def stranger(self, attack: Attack, address: str, *arguments: Any) -> Stranger:
        """Let a stranger loose on HOST:PORT."""
        stranger = Stranger(attack, address, *arguments)
        self._stack.callback(stranger.end)
        return stranger

    def load(self, edge: Node, per_second: float = 20) -> Load:
        """Have somebody ask about photos."""
        return Load(edge.url, photos(), per_second)

    def _node(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        files: int | None = None,
        environment: Mapping[str, str] | None = None,
        memory_mb: int | None = None,
    ) -> Node:
        self._number += 1
        group = self._stack.enter_context(confined(memory_mb)) if memory_mb else None
        if group is not None:
            self._groups.append(group)
        port = () if "--port" in arguments else ("--port", "0")
        bundle = () if arguments and not arguments[0].startswith("-") else (str(BUNDLE),)
        log = self.folder / f"{module}-{self._number}.log"
        started = self._stack.enter_context(
            node(module, [*bundle, *arguments, *port], log, files=files, environment=environment, group=group)
        )
        assert started.address
        self.nodes.append(started)
        return started

    async def under_attack(
        self,
        edge: Node,
        attack: Attack,
        *arguments: Any,
        seconds: tuple[float, float] = (20, 4),
    ) -> Outcome:
        """Ask at rest, then while a stranger attacks; the bars are those for strangers.

        `seconds`: how long it takes in full and in short.
        """
        memory = Memory(self.nodes)
        load = self.load(edge)
        await asyncio.sleep(self.seconds(15, 3))
        calm = time.monotonic()
        stranger = self.stranger(attack, edge.address, *arguments)
        await asyncio.to_thread(stranger.until_begun)
        begun = time.monotonic()
        await asyncio.sleep(self.seconds(*seconds))
        ended = time.monotonic()
        seen = await asyncio.to_thread(load.stop)
        sent = stranger.sent
        stranger.end()
        return self._judged(between(seen, 0, calm), between(seen, begun, ended), sent, memory.stop())

    def _judged(self, rest: Sequence[Seen], during: Sequence[Seen], sent: int, memory_mb: float) -> Outcome:
        quiet, busy = Tally.of(rest), Tally.of(during)
        limit = max(SLOWER * quiet.p99_ms, _SHORT_FLOOR_MS if self.short else 0)
        failed = busy.refused + busy.lost
        checks = [
            Check("the stranger sent something", sent > 0, f"{sent}"),
            Check("no normal photo fails", failed == 0 and busy.sent > 0, f"{failed} of {busy.sent}; {busy.details}"),
            Check(f"p99 at most {SLOWER} times that at rest", busy.p99_ms <= limit,
                  f"{busy.p99_ms:.0f} ms, at rest {quiet.p99_ms:.0f} ms"),
            Check(f"at most {MEMORY_MB} MiB a node", memory_mb <= MEMORY_MB, f"{memory_mb:.0f} MiB"),
        ]  # fmt: skip
        if self._groups:
            killed = sum(group.killed for group in self._groups)
            checks.append(Check("nothing is killed for its memory", killed == 0, f"{killed} processes"))
        return Outcome(checks, quiet, busy, sent, memory_mb=memory_mb)


def between(seen: Sequence[Seen], begin: float, end: float) -> list[Seen]:
    """Those that were sent between two times."""
    return [each for each in seen if begin <= each.at < end]


async def until(holds: Callable[[], bool], *, within_s: float) -> float | None:
    """Wait until something holds; seconds that took, None if it never did."""
    started = time.monotonic()
    while time.monotonic() - started < within_s:
        if await asyncio.to_thread(holds):
            return time.monotonic() - started
        await asyncio.sleep(0.05)
    return None
