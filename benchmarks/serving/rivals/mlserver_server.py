"""MLServer: one process for HTTP, and a pool of processes that run the model.

Its own protocol takes tensors as JSON. A photo as it is needs an endpoint of the model's own.
"""

import asyncio
import os
import socket
from typing import Any

from fastapi import Body
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.handlers import custom_handler
from plain import Plain


class Predict(MLModel):
    """The network in one process of the pool."""

    async def load(self) -> bool:
        """Load it."""
        self._plain = Plain()
        return True

    @custom_handler(rest_path="/v1/predict")
    async def answer(self, body: bytes = Body(media_type="image/jpeg")) -> dict[str, Any]:
        """Answer one image."""
        return self._plain(body)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


async def _serve() -> None:
    settings = Settings(
        host="127.0.0.1",
        http_port=int(os.environ["RIVAL_PORT"]),
        grpc_port=_free_port(),
        metrics_endpoint=None,
        parallel_workers=int(os.environ["RIVAL_WORKERS"]),
        debug=False,
        use_structured_logging=False,
    )
    server = MLServer(settings)
    await server.start([ModelSettings(name="plain", implementation=Predict)])


if __name__ == "__main__":
    asyncio.run(_serve())
