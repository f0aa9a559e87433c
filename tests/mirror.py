"""A server of data sets on this machine, with all that can go wrong with one."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Mirror:
    """A server of files by their names; it stops in the middle of those in `broken`, and hangs there if told to."""

    files: Mapping[str, bytes]
    broken: frozenset[str] = frozenset()
    hangs: bool = False
    address: str = ""
    asked: list[str] = field(default_factory=list)
    in_the_middle: threading.Event = field(default_factory=threading.Event)
    ends: threading.Event = field(default_factory=threading.Event)

    def answer(self, to: BaseHTTPRequestHandler) -> None:
        name = to.path.rpartition("/")[2]
        self.asked.append(name)
        if name not in self.files:
            to.send_error(404)
            return
        data = self.files[name]
        to.send_response(200)
        to.send_header("content-length", str(len(data)))
        to.send_header("content-encoding", "gzip")  # as servers do that judge by the name's ending
        to.end_headers()
        to.wfile.write(data[: len(data) // 2])
        if name in self.broken:
            self.in_the_middle.set()
            if self.hangs:
                self.ends.wait(60)
            return
        to.wfile.write(data[len(data) // 2 :])


@contextmanager
def serving(files: Mapping[str, bytes], **how: Any) -> Iterator[Mirror]:
    """A mirror of these files on a port of its own, until the block ends."""
    mirror = Mirror(files, **how)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with suppress(ConnectionError):  # whoever asked had enough
                mirror.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        mirror.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield mirror
        finally:
            mirror.ends.set()
            server.shutdown()
            thread.join()
