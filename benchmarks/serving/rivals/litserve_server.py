"""LitServe: a FastAPI front, and inference in worker processes behind queues."""

from __future__ import annotations

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

    async def decode_request(self, request: Request) -> bytes:
        """The body is the image."""
        return await request.body()

    async def predict(self, body: bytes) -> dict[str, Any]:
        """Answer one image."""
        return self._plain(body)

    async def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        """It fits JSON already."""
        return output


if __name__ == "__main__":
    workers = int(os.environ["RIVAL_WORKERS"])
    server = litserve.LitServer(
        Predict(api_path="/v1/predict", enable_async=True), accelerator="cpu", workers_per_device=workers
    )
    server.run(
        host="127.0.0.1",
        port=int(os.environ["RIVAL_PORT"]),
        log_level="warning",
        generate_client_file=False,
    )
