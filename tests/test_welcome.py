"""The edge node's front page: the same for people and for programs, and every way it points out leads somewhere."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from html import unescape

import httpx
import pytest
import pytest_asyncio

from offramp.bundle import Bundle
from tests.nodes import Pixels, png, predict, running_edge

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest_asyncio.fixture(scope="module")
async def client(tiny_bundle: Bundle) -> AsyncIterator[httpx.AsyncClient]:
    async with running_edge(tiny_bundle, blocks="1-3", allowed_hosts=("edge-1.example.com",)) as client:
        yield client


@pytest.mark.parametrize("accept", ["application/json", "*/*", ""])
async def test_a_program_is_answered_in_json(
    client: httpx.AsyncClient, tiny_bundle: Bundle, accept: str
) -> None:
    response = await client.get("/", headers={"accept": accept})
    assert response.headers["content-type"] == "application/json" and response.headers["vary"] == "accept"
    assert response.json()["bundle"] == tiny_bundle.manifest.bundle_id
    for path in response.json()["links"]:
        assert (await client.get(path)).status_code == 200


async def test_the_command_it_gives_works_as_it_stands(
    client: httpx.AsyncClient, tiny_pixels: Pixels
) -> None:
    told = (await client.get("/")).json()["predict"]
    url = told.split()[-1]
    assert told.startswith("curl --data-binary @") and url.startswith(str(client.base_url))
    # As curl sends it.
    headers = {"content-type": "application/x-www-form-urlencoded"}
    response = await client.post(url, content=png(tiny_pixels[0]), headers=headers)
    assert response.json()["label"] == (await predict(client, png(tiny_pixels[0])))["label"]


async def test_a_browser_gets_a_page_with_the_same_in_it(
    client: httpx.AsyncClient, tiny_bundle: Bundle
) -> None:
    told = (await client.get("/")).json()
    response = await client.get("/", headers={"accept": BROWSER})
    page = unescape(response.text)
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert f"<title>{told['name']}</title>" in page and '<html lang="en">' in page
    assert told["bundle"] in page and told["predict"] in page and "ant, bee, cat, dog" in page
    assert re.findall(r'href="(/[^"]*)"', page) == list(told["links"])


async def test_the_page_needs_no_other_host(client: httpx.AsyncClient) -> None:
    response = await client.get("/", headers={"accept": BROWSER})
    assert not re.findall(r"""(?:src|href)=["'](?!/|data:)""", response.text)
    assert "default-src 'none'" in response.headers["content-security-policy"]


@pytest.mark.parametrize("host", ["pi.local", "edge-1.example.com:8443", "[::1]:8000", "10.0.0.7"])
async def test_the_command_names_the_node_as_the_client_does(client: httpx.AsyncClient, host: str) -> None:
    assert f"http://{host}/v1/predict" in (await client.get("/", headers={"host": host})).json()["predict"]


@pytest.mark.parametrize("host", ["a;reboot", "$(reboot)", "<script>", "a b", "x:y", ""])
async def test_no_host_header_gets_into_the_command_that_could_do_more_than_name_a_host(
    client: httpx.AsyncClient, host: str
) -> None:
    response = await client.get("/", headers={"host": host})
    assert response.status_code == 421 and "predict" not in response.json()


async def test_other_paths_are_still_not_found(client: httpx.AsyncClient) -> None:
    response = await client.get("/index.html", headers={"accept": BROWSER})
    assert response.status_code == 404 and response.json()["code"] == "not_found"
