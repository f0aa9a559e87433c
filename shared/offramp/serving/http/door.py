"""The connections of one process: how many there are, whose they are, and which can be closed to make room."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from enum import Enum
from typing import Protocol

from offramp.serving.http.in_turns import ReadingTurns
from offramp.serving.http.limits import LEAST_CONNECTIONS, SEND_S, TOLD, HttpLimits
from offramp.serving.http.pace import RefusalPace
from offramp.serving.http.refused import FullPath
from offramp.serving.http.seldom import SeldomLog
from offramp.serving.http.share import FairShare

_SWEEP_S = 0.5
_USUAL_HEAD_S = 1.0  # in which the head of an honest client has come
_log = logging.getLogger("offramp.http")


class Stage(Enum):
    """What a connection is waiting for."""

    HEAD = "the head of a request, or the rest of one that was refused"
    BODY = "the body of a request"
    ANSWER = "its answer"
    IDLE = "the next request"


class Held(Protocol):
    """A connection, as the door sees it. `since`: when its stage began, by the loop's clock."""

    peer: str
    stage: Stage
    since: float
    is_lost: bool

    def abandon(self) -> None:
        """Close it for another's sake, or because it took too long."""
        ...

    def late(self) -> None:
        """Close it because its request did not arrive in time; tell it so."""
        ...

    @property
    def is_stuck(self) -> bool:
        """Whether its client does not take what is sent to it."""
        ...


class _Client:
    """The connections of one client that can be closed to make room, the one that moved last at the end."""

    def __init__(self) -> None:
        self.count = 0
        self.unfinished: OrderedDict[Held, None] = OrderedDict()
        self.idle: OrderedDict[Held, None] = OrderedDict()

    @property
    def num_waiting(self) -> int:
        return len(self.unfinished) + len(self.idle)

    def queue(self, stage: Stage) -> OrderedDict[Held, None] | None:
        if stage is Stage.ANSWER:
            return None
        return self.idle if stage is Stage.IDLE else self.unfinished

    def least_missed(self, now: float) -> Held | None:
        """The connection to close first: half a head, an idle one, a body that has not come further for longest."""
        oldest = next(iter(self.unfinished), None)
        if oldest is not None and oldest.stage is Stage.HEAD and now - oldest.since > _USUAL_HEAD_S:
            return oldest
        return next(iter(self.idle), oldest)


class Door:
    """Admits connections within the limits; makes room by closing those that nobody would miss."""

    def __init__(self, limits: HttpLimits) -> None:
        self.limits = limits
        self.is_draining = False
        self.pace = RefusalPace()
        self.turns = ReadingTurns()
        self._full_path: FullPath | None = None
        self.malformed = SeldomLog(
            _log, "malformed_request", "not HTTP/1.1, or over a limit on heads; refused"
        )
        self._share = FairShare(limits.connections, least=LEAST_CONNECTIONS)
        self._clients: dict[str, _Client] = {}
        self._held: set[Held] = set()
        self._told: set[Held] = set()
        self._sweeping: asyncio.TimerHandle | None = None
        self._full = SeldomLog(
            _log, "connections_refused", f"all {limits.connections} connections are in use; answered with 503"
        )
        self._closed = SeldomLog(
            _log, "connections_closed", f"of {limits.connections} connections, to make room for new ones"
        )

    def fill(self, path: FullPath) -> None:
        """Refuse those who post to a path, as long as it says that it is full."""
        self._full_path = path

    def full_path(self, method: str, path: str) -> FullPath | None:
        """What refuses a request at once, if anything does."""
        full = self._full_path
        if full is None or method != "POST" or path != full.path:
            return None
        if not full.is_full():
            self._full_path = full = None
        return full

    def admit(self, connection: Held, loop: asyncio.AbstractEventLoop) -> bool:
        """Count a new connection; makes room for it if need be. False: there is none."""
        while not self._share.take(connection.peer, 1):
            victim = self._victim(connection.peer, loop.time())
            if victim is None:
                self._full.count(connection.peer)
                return False
            self._closed.count(victim.peer)
            self.remove(victim)
            victim.abandon()
        client = self._clients.setdefault(connection.peer, _Client())
        client.count += 1
        client.unfinished[connection] = None
        self._held.add(connection)
        if self._sweeping is None:
            self._sweeping = loop.call_later(_SWEEP_S, self._sweep, loop)
        return True

    def may_tell(self, connection: Held) -> bool:
        """Whether a connection that was not admitted is told so; only a few are, for each takes a file as well."""
        self._told = {each for each in self._told if not each.is_lost}
        if len(self._told) >= TOLD:
            return False
        self._told.add(connection)
        return True

    def _victim(self, peer: str, now: float) -> Held | None:
        if self._share.used < self._share.total:  # this client has its share
            return self._clients[peer].least_missed(now) if peer in self._clients else None
        return max(self._clients.values(), key=lambda client: client.num_waiting).least_missed(now)

    def move(self, connection: Held, stage: Stage, now: float) -> None:
        """A connection has come to another stage, or further in the same one."""
        if connection not in self._held:
            return
        client = self._clients[connection.peer]
        before, after = client.queue(connection.stage), client.queue(stage)
        if before is not after:
            if before is not None:
                before.pop(connection, None)
            if after is not None:
                after[connection] = None
        elif stage is Stage.BODY:
            client.unfinished.move_to_end(connection)
        if stage is not connection.stage:
            connection.stage, connection.since = stage, now

    def remove(self, connection: Held) -> None:
        """A connection is gone."""
        if connection not in self._held:
            return
        self._held.remove(connection)
        client = self._clients[connection.peer]
        if (queue := client.queue(connection.stage)) is not None:
            queue.pop(connection, None)
        self._share.give(connection.peer, 1)
        client.count -= 1
        if not client.count:
            del self._clients[connection.peer]

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for connection in list(self._held):
            waited_s = now - connection.since
            match connection.stage:
                case Stage.HEAD if waited_s > self.limits.head_s:
                    connection.late()
                case Stage.IDLE if waited_s > self.limits.idle_s:
                    connection.abandon()
                case Stage.ANSWER | Stage.IDLE if waited_s > SEND_S and connection.is_stuck:
                    connection.abandon()
        self._sweeping = loop.call_later(_SWEEP_S, self._sweep, loop) if self._held else None
