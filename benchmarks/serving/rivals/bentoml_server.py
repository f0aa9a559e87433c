"""BentoML: a service class, as many workers as asked."""

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


# Its own routes take JSON and forms; a body that is an image is what ASGI apps inside a service are for.
@bentoml.asgi_app(Starlette(routes=[Route("/predict", _predict, methods=["POST"])]), path="/v1")
@bentoml.service(workers=int(os.environ.get("RIVAL_WORKERS", "2")))
class Predict:
    """One worker process."""

    @bentoml.api
    def ready(self) -> Any:
        """A service needs a route of its own."""
        return "yes"
