"""FastAPI by hand: one route, which does the work where the request arrives."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from plain import Plain

app = FastAPI()
plain = Plain()


@app.post("/v1/predict")
async def predict(request: Request) -> dict[str, Any]:
    """Answer one image."""
    return plain(await request.body())
