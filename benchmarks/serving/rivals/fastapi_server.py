"""Runs FastAPI on uvicorn, with RIVAL_WORKERS processes.

Those of `uvicorn --workers` share a socket, and the one that wakes first takes all connections that wait there: while
clients keep them open, one of two workers may get every request. Here, as on the edge node, each has its own socket.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

import uvicorn
from uvicorn.supervisors import Multiprocess


class _OwnPort(socket.socket):
    """A placeholder that becomes a socket of its own on the same port in each process it is sent to."""

    def __reduce__(self) -> tuple[Callable[[int], socket.socket], tuple[int]]:
        return _bound, (self.getsockname()[1],)


def _bound(port: int) -> socket.socket:
    own = _OwnPort()
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    own.bind(("127.0.0.1", port))
    return own


if __name__ == "__main__":
    port, workers = int(os.environ["RIVAL_PORT"]), int(os.environ["RIVAL_WORKERS"])
    config = uvicorn.Config(
        "fastapi_app:app", port=port, workers=workers, log_level="warning", access_log=False
    )
    if workers > 1:
        Multiprocess(config, [_bound(port)]).run()
    else:
        uvicorn.Server(config).run()
