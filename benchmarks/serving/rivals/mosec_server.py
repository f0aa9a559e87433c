"""Mosec: its front end, written in Rust, passes bodies to worker processes."""

from __future__ import annotations

import json
import os
from typing import Any

from mosec import Server, Worker
from plain import Plain


class Predict(Worker):
    """One worker process."""

    def __init__(self) -> None:
        super().__init__()
        self._plain = Plain()

    def deserialize(self, data: bytes) -> Any:
        """The body is the image."""
        return data

    def serialize(self, data: Any) -> bytes:
        """Encode the answer as JSON."""
        return json.dumps(data).encode()

    def forward(self, data: Any) -> Any:
        """Answer one image."""
        return self._plain(data)


if __name__ == "__main__":
    server = Server()
    server.append_worker(Predict, num=int(os.environ["RIVAL_WORKERS"]))
    server.run()
