"""Ray Serve: replicas behind its HTTP proxy."""

from __future__ import annotations

import os
from typing import Any

from plain import Plain
from ray import serve
from starlette.requests import Request


@serve.deployment(num_replicas=int(os.environ.get("RIVAL_WORKERS", "2")), ray_actor_options={"num_cpus": 0.5})
class Predict:
    """One replica."""

    def __init__(self) -> None:
        self._plain = Plain()

    async def __call__(self, request: Request) -> dict[str, Any]:
        """Answer one image."""
        return self._plain(await request.body())


if __name__ == "__main__":
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["RIVAL_PORT"])})
    serve.run(Predict.bind(), route_prefix="/v1/predict", blocking=True)
