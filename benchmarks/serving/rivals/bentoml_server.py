"""BentoML: a service class, with RIVAL_WORKERS workers."""

from __future__ import annotations

import os
from typing import Any

import bentoml
from plain import Plain
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

plain = Plain()


async def _predict(request: Request) -> JSONResponse:
    return JSONResponse(plain(await request.body()))


# BentoML's own routes take JSON and forms. An ASGI app inside the service can take an image as the body.
@bentoml.asgi_app(Starlette(routes=[Route("/predict", _predict, methods=["POST"])]), path="/v1")
@bentoml.service(workers=int(os.environ.get("RIVAL_WORKERS", "2")))
class Predict:
    """One worker process."""

    @bentoml.api
    def ready(self) -> Any:
        """A service needs a route of its own."""
        return "yes"
