"""By which names a server may be addressed, and which pages may use it."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from offramp.serving.access.hosts import AllowedHosts, CheckedHosts

_OWN = [
    "127.0.0.1:8000",
    "[::1]:8000",
    "localhost",
    "LOCALHOST:80",
    "edge-1:8000",
    "edge.lab.internal",
    "10.1.2.3",
]
_FOREIGN = [
    "evil.example",
    "127.0.0.1.evil.example:8000",
    "evil.example.",
    "",
    "a b",
    "localhost.evil.example",
    "x@localhost",
]


async def _hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


async def _ask(*extra: str, **headers: str) -> httpx.Response:
    app = CheckedHosts(_hello, AllowedHosts(extra), setting="EDGE_ALLOWED_HOSTS")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
        return await client.get("/", headers=headers)


@pytest.mark.parametrize("host", _OWN)
async def test_a_name_that_no_foreign_page_can_have_is_this_servers(host: str) -> None:
    assert (await _ask(host=host)).status_code == 200


@pytest.mark.parametrize("host", _FOREIGN)
async def test_a_name_that_a_foreign_page_can_have_is_refused(host: str) -> None:
    assert (await _ask(host=host)).status_code == 421


async def test_a_name_that_was_given_is_allowed_and_no_other() -> None:
    assert (await _ask("edge.example", host="edge.example:8443")).status_code == 200
    refused = await _ask("edge.example", host="other.example")
    assert refused.status_code == 421
    assert refused.json()["code"] == "wrong_host"
    assert "EDGE_ALLOWED_HOSTS" in refused.json()["error"]


async def test_a_page_may_use_the_server_it_came_from_but_no_other() -> None:
    assert (await _ask(host="localhost:8000", origin="http://localhost:8000")).status_code == 200
    for origin in ("http://evil.example", "http://localhost:9000", "null"):
        refused = await _ask(host="localhost:8000", origin=origin)
        assert (refused.status_code, refused.json()["code"]) == (403, "wrong_origin")
    assert (
        await _ask("shop.example", host="localhost:8000", origin="https://shop.example")
    ).status_code == 200
