"""The limits of an HTTP front door. docs/limits.md lists them, with what a client sees beyond each."""

from __future__ import annotations

import resource
from dataclasses import dataclass

from offramp.errors import ConfigError

HEAD_BYTES = 32_768  # request line and headers; beyond: 431
HEADERS = 100  # in one head, and as many in the trailer of a chunked body; beyond: 431
PIPELINED = 16  # requests of one connection that wait for an answer; beyond: it is closed after them
CHUNK_BYTES = 64  # least average size of a body's chunks, once it has FREE_CHUNKS; beyond: 400
FREE_CHUNKS = 4_096
SEND_S = 30.0  # for a client to take its answer; beyond: the connection is closed
SKIPPED_BYTES = 1_000_000  # of a refused body that is skipped, to keep its connection; beyond: it is closed
LINGER_BYTES = 100_000_000  # that a refused client may still send before it has to look at its answer
SHARE = 3  # a client may hold this many times what is left for the others: alone, three quarters
TOLD = (
    32  # connections beyond the limit that are answered with 503 at a time; others are closed without a word
)
ALONE_S = 10.0  # after so long without another client, one may have all places for requests in progress
LEAST_CONNECTIONS = 8  # of one client, whatever the others hold
AT_ONCE_S = 0.5  # a client that asks again so soon after a refusal does not wait as Retry-After says
REFUSED_PER_S = 100  # of such clients together; beyond: their connections are left unread for up to REST_S
REST_S = 10.0
MUCH_BYTES = 65_536  # read at once: a connection with more to come, which is read in turns with its like
READ_IN_A_ROUND = 4  # of such connections, in a round of the event loop
WOKEN_PER_ANSWER = 1  # of those that are left unread

_USUAL_CONNECTIONS = 4_096
_OTHER_FILES = (
    128  # that a process has open besides its connections: those that are refused, the upstream, its log
)


@dataclass(frozen=True, kw_only=True)
class HttpLimits:
    """What can be set about a front door.

    connections: open at the same time in one process. head_s: for a request's head to arrive. idle_s: how long a
    connection may be idle between two requests. grace_s, drain_s: as of a node.
    """

    connections: int
    head_s: float = 10.0
    idle_s: float = 30.0
    drain_s: float = 0.0
    grace_s: float = 5.0

    @property
    def last_s(self) -> float:
        """How long an idle connection is still read once the server has stopped listening: its client may be asking."""
        return min(2 * self.drain_s, self.grace_s / 2)


def open_files() -> int:
    """How many files this process may open; raises its own limit as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else 2**20


def usual_connections() -> int:
    """How many connections a process takes unless it is told: 4096, or fewer if it may not open so many files."""
    return max(LEAST_CONNECTIONS, min(_USUAL_CONNECTIONS, open_files() - _OTHER_FILES))


def check_open_files(connections: int, *, setting: str) -> None:
    """Check that a process can hold its connections.

    Raises:
        ConfigError: it may not open so many files.
    """
    if connections + _OTHER_FILES > (most := open_files()) and connections > LEAST_CONNECTIONS:
        raise ConfigError(
            f"{setting} is {connections} for each process, which may open {most} files and needs {_OTHER_FILES} "
            f"besides; lower it, or raise the limit (ulimit -n)"
        )
