"""LitServe: a FastAPI front end, and inference in worker processes behind queues.

This file has no `from __future__ import annotations`, because LitServe inspects the annotation itself.
"""

import os
from typing import Any

import litserve
from fastapi import Request
from plain import Plain


class Predict(litserve.LitAPI):
    """One worker process."""

    def setup(self, device: str) -> None:
        """Load the network."""
        self._plain = Plain()

    def decode_request(self, request: Request) -> bytes:
        """Read the image from a form field, because LitServe takes only JSON and forms."""
        data: bytes = request["content"].file.read()
        return data

    def predict(self, body: bytes) -> dict[str, Any]:
        """Answer one image."""
        return self._plain(body)

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        """Return the answer as it is; it is ready for JSON."""
        return output


if __name__ == "__main__":
    workers = int(os.environ["RIVAL_WORKERS"])
    server = litserve.LitServer(
        Predict(api_path="/v1/predict"), accelerator="cpu", workers_per_device=workers
    )
    server.run(
        host="127.0.0.1",
        port=int(os.environ["RIVAL_PORT"]),
        log_level="warning",
        generate_client_file=False,
    )
