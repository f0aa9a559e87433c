"""Polls a node once a second and keeps what it read."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Sequence

from offramp.bundle import Manifest
from offramp.logs import line
from offramp_dashboard.history import SAMPLES, Bin, History, Step, binned
from offramp_dashboard.node_client import NodeClient, NodeError
from offramp_dashboard.rates import Increments, by_labels, increments, summed
from offramp_dashboard.reading import Reading, ReadingError
from offramp_dashboard.schemas import Policy, Prediction, Readiness

_log = logging.getLogger("dashboard")

_EVERY_S = 1.0


class MetricsWatch:
    """One node of any tier: its latest metrics, and its last minutes."""

    def __init__(self, client: NodeClient) -> None:
        self.address = client.address
        self.reading: Reading | None = None
        self.fault: str | None = None
        self.read_at: float | None = None
        self.history = History()
        self._client = client
        self._clock = 0.0

    @property
    def name(self) -> str:
        """Its address without http://."""
        return self.address.partition("://")[2]

    async def run(self) -> None:
        """Poll once a second until cancelled."""
        try:
            while True:
                # Just after the full second, so that the steps of all nodes fall into the same seconds.
                await asyncio.sleep(_EVERY_S - time.time() % _EVERY_S)
                try:
                    await self.look()
                except Exception:  # noqa: BLE001 - a bug is logged; the next poll may succeed
                    _log.exception(line("failed", node=self.name))
                    self.fault = "the dashboard failed to read this node; see the dashboard's log"
        finally:
            await self._client.aclose()

    async def look(self) -> None:
        """Ask the node for its figures; after a fault, keep the fault and the last figures."""
        try:
            self._remember(await self._client.metrics())
        except (NodeError, ReadingError) as error:
            self.fault = str(error)
        else:
            self.fault = None

    def _remember(self, reading: Reading) -> None:
        clock = time.monotonic()
        if self.reading is not None:
            gained = increments(self.reading, reading)
            self.history.add(Step(int(time.time()), clock - self._clock, gained))
        self.reading, self._clock, self.read_at = reading, clock, time.time()


class Watch(MetricsWatch):
    """One edge node: also its bundle, policy and readiness, and ways to change its policy."""

    def __init__(self, client: NodeClient) -> None:
        super().__init__(client)
        self.manifest: Manifest | None = None
        self.policy: Policy | None = None
        self.policy_since = 0  # the second up to which the policy before may have decided
        self.readiness: Readiness | None = None
        self.needs_key: bool | None = None  # None: it was never reached
        self._changes = 0

    @property
    def own_tiers(self) -> set[str]:
        """The node's own names in its answers: "edge", or the one it was given.

        A node does not report its name. But only the node runs block 1, so answers of an exit after block 1 name it.
        """
        first = self.manifest.blocks[0].exit if self.manifest else None
        if self.reading is None or first is None:
            return {"edge"}
        own = by_labels(self.reading.counters, SAMPLES, "exit", "tier")
        return {"edge"} | {tier for exit, tier in own if exit == "exit-1"}

    async def look(self) -> None:
        """Ask the node for everything that can change; after a fault, keep the fault and what was known before."""
        changes = self._changes
        try:
            reading = await self._client.metrics()
            self._remember(reading)
            if self.manifest is None or self.manifest.bundle_id != (
                reading.bundle_id or self.manifest.bundle_id
            ):
                self.manifest = await self._client.bundle()
            policy, self.readiness, self.needs_key = await asyncio.gather(
                self._client.policy(), self._client.readiness(), self._asks_for_keys()
            )
        except (NodeError, ReadingError) as error:
            if isinstance(error, NodeError) and error.status == 401:
                self.needs_key = True
            self.fault = str(error)
            return
        self.fault = None
        # If the policy was changed meanwhile, the answer to that change is newer than this one.
        if changes == self._changes:
            self._keep(policy)

    async def choose(self, operating_point: str, key: str | None = None) -> None:
        """Choose an operating point and keep the policy that the node then reports; `key`: of who chooses."""
        self._keep(await self._client.using(key).choose(operating_point))
        self._changes += 1

    async def set_theta(self, exit_number: int, theta: float, key: str | None = None) -> None:
        """Change θ at one exit; the others stay as they are on the node. `key`: of who changes it."""
        client = self._client.using(key)
        thetas = list((await client.policy()).thetas)
        if exit_number > len(thetas):
            raise NodeError(f"the node's bundle no longer has a θ for exit {exit_number}")
        thetas[exit_number - 1] = theta
        self._keep(await client.set_thetas(thetas))
        self._changes += 1

    async def ask(self, image: bytes, key: str | None = None) -> tuple[Prediction, Policy]:
        """Classify a photo; return the answer, and the policy that most likely decided it. `key`: of who asks."""
        client = self._client.using(key)
        policy = await client.policy()
        return await client.predict(image), policy

    async def _asks_for_keys(self) -> bool:
        try:
            return (await self._client.access()).name is not None
        except NodeError as error:
            if error.status == 404:  # a node from before there were keys
                return False
            raise

    def _keep(self, policy: Policy) -> None:
        if self.policy not in (None, policy):
            self.policy_since = math.ceil(time.time())
        self.policy = policy


def bins_of(watches: Sequence[Watch], *, seconds: int, width: int) -> list[Bin]:
    """The last `seconds` seconds of these nodes, in bins of `width` seconds."""
    # The current second is not complete yet.
    until = int(time.time()) - 1
    steps = [watch.history.since(until - seconds - width) for watch in watches]
    return binned(steps, until=until, seconds=seconds, width=width)


def steps_lately(watch: MetricsWatch, seconds: int) -> list[Step]:
    """The steps of the last `seconds` seconds."""
    return watch.history.since(int(time.time()) - 1 - seconds)


def gained_lately(watch: MetricsWatch, seconds: int) -> Increments:
    """What the node's counters gained in the last `seconds` seconds."""
    return summed(step.gained for step in steps_lately(watch, seconds))


def gained_under_this_policy(watch: Watch, seconds: int) -> Increments:
    """What the node's counters gained in the last `seconds` seconds, but only since its policy was last changed."""
    steps = steps_lately(watch, seconds)
    return summed(step.gained for step in steps if step.at > watch.policy_since)
