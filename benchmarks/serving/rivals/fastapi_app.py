"""FastAPI by hand: one route, which does the work where the request arrives, or in RIVAL_AT_ONCE threads."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import FastAPI, Request
from plain import Plain

app = FastAPI()
plain = Plain()
_at_once = int(os.environ["RIVAL_AT_ONCE"])
_threads = ThreadPoolExecutor(_at_once) if _at_once > 1 else None


@app.post("/v1/predict")
async def predict(request: Request) -> dict[str, Any]:
    """Answer one image."""
    body = await request.body()
    if _threads is None:
        return plain(body)
    return await asyncio.get_running_loop().run_in_executor(_threads, plain, body)
