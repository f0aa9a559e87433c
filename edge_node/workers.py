"""Starts, watches and replaces the processes of an edge node; uvicorn's supervisor, for servers that drain."""

from __future__ import annotations

import logging
import socket
import time

from uvicorn.config import STARTUP_FAILURE
from uvicorn.server import Server
from uvicorn.supervisors.multiprocess import Multiprocess, Process

from offramp.logs import line
from offramp.serving.http.server import HttpConfig, HttpServer

_log = logging.getLogger("edge_node")


class Worker(Process):
    """One process, whose server drains."""

    @property
    def server(self) -> Server:
        """The server; it is made in the process itself."""
        if self._server is None:
            assert isinstance(self.config, HttpConfig)
            self._server = HttpServer(self.config)
        return self._server


class Workers(Multiprocess):
    """The processes of one node; signals but SIGTERM and SIGINT do nothing."""

    handle_hup = handle_ttin = handle_ttou = None  # type: ignore[assignment] # uvicorn's would start its own kind

    def __init__(self, config: HttpConfig, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        self._within_s = config.stops_within_s + 1.0

    def init_processes(self) -> None:
        """Start all of them."""
        self.processes = [self._started() for _ in range(self.processes_num)]

    def _started(self) -> Worker:
        worker = Worker(self.config, self.sockets)
        worker.start()
        return worker

    @property
    def has_failed(self) -> bool:
        """Whether a process could not start."""
        return any(process.exitcode == STARTUP_FAILURE for process in self.processes)

    def keep_subprocess_alive(self) -> None:
        """Replace a process that has died, or that does not answer; stop if one cannot start."""
        for at, process in enumerate(self.processes):
            if self.should_exit.is_set() or process.is_alive(timeout=self.config.timeout_worker_healthcheck):
                continue
            process.kill()
            process.join()
            if process.exitcode == STARTUP_FAILURE:
                self.should_exit.set()
                return
            _log.error(line("process_replaced", pid=process.pid, status=process.exitcode))
            self.processes[at] = self._started()

    def join_all(self) -> None:
        """Wait for all of them, and end those that are stuck."""
        # Connections wait on a socket as long as any process has it open: then nobody would ever accept them.
        for each in self.sockets:
            each.close()
        until = time.monotonic() + self._within_s
        for process in self.processes:
            process.process.join(max(0.0, until - time.monotonic()))
            if process.process.is_alive():
                _log.error(line("process_killed", pid=process.pid, detail="it did not stop in time"))
                process.process.kill()
                process.process.join()
