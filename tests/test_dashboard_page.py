"""The dashboard in a browser of this machine, in front of real nodes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import httpx
import pytest

from offramp.cli.processes import node_process
from tests.browsing import CHROMIUM, TABS, Running, launched, opened, running_dashboard, show_tab
from tests.conftest import SAMPLES
from tests.nodes import closed_port_address, first_photo

if TYPE_CHECKING:
    from playwright.async_api import Browser, FilePayload

pytest.importorskip("nicegui", reason="needs the extra 'dashboard'")
playwright = pytest.importorskip("playwright.async_api", reason="needs playwright, of the extra 'dev'")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, as the Debian package installs it")

expect = playwright.expect


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
async def running() -> AsyncIterator[Running]:
    async with running_dashboard() as running:
        yield running


async def policy_becomes(edge: httpx.AsyncClient, **expected: object) -> None:
    for _ in range(100):
        policy = (await edge.get("/v1/policy")).json()
        if all(policy[name] == value for name, value in expected.items()):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"the policy stayed {policy}, expected {expected}")


async def test_live_counts_the_photos_of_others(browser: Browser, running: Running) -> None:
    async with opened(browser, running.address) as page:
        await expect(page.get_by_text("up", exact=True)).to_be_visible()
        for _ in range(5):
            await running.edge.post("/v1/predict", content=first_photo(SAMPLES, "trouser"))
        row = page.get_by_role("row", name=re.compile("exit-1"))
        await expect(row).to_contain_text("ms")
        await expect(page.get_by_text("No photos were classified")).to_be_hidden()


async def test_live_counts_the_calls_of_a_cloud_node(browser: Browser, running: Running) -> None:
    await running.edge.put("/v1/policy", json={"operating_point": "full"})
    async with opened(browser, running.address) as page:
        figures = page.get_by_role("group", name="127.0.0.1").locator(".cloud-value")
        for _ in range(3):
            await running.edge.post("/v1/predict", content=first_photo(SAMPLES, "trouser"))
        await expect(figures.nth(1)).to_have_text("1")  # photos in a call
        await expect(figures.nth(4)).to_contain_text("ms")  # computing


async def test_a_sample_gets_an_answer(browser: Browser, running: Running) -> None:
    async with opened(browser, running.address) as page:
        await show_tab(page, "Try it")
        await page.get_by_role("button", name="Classify this trouser").click()
        await expect(page.locator(".answer-label")).to_have_text(re.compile("[a-z]+"))
        await expect(page.get_by_text(re.compile(r"left at (exit-1|final) on (edge|cloud)"))).to_be_visible()
        await expect(page.locator(".exits .theta")).to_have_count(1)


async def test_what_is_no_photo_gets_the_words_of_the_node(browser: Browser, running: Running) -> None:
    said = (await running.edge.post("/v1/predict", content=b"no photo at all")).json()["error"]
    async with opened(browser, running.address) as page:
        await show_tab(page, "Try it")
        file: FilePayload = {"name": "a.png", "mimeType": "image/png", "buffer": b"no photo at all"}
        await page.locator("input[type=file]").set_input_files(file)
        await expect(page.get_by_role("alert").filter(has_text=said[:30])).to_be_visible()


async def test_a_photo_of_ones_own_is_classified(browser: Browser, running: Running) -> None:
    async with opened(browser, running.address) as page:
        await show_tab(page, "Try it")
        photo: FilePayload = {"name": "a.png", "mimeType": "image/png", "buffer": first_photo(SAMPLES, "bag")}
        await page.locator("input[type=file]").set_input_files(photo)
        await expect(page.locator(".answer-label")).to_have_text("bag")
        await expect(page.get_by_alt_text("what the network sees")).to_be_visible()
        await expect(page.get_by_text("28 x 28 pixels, resized to 28 x 28")).to_be_visible()


async def test_a_drawing_is_classified(browser: Browser, running: Running) -> None:
    async with opened(browser, running.address) as page:
        await show_tab(page, "Try it")
        await page.get_by_role("button", name="Classify", exact=True).click()
        await expect(page.get_by_text("Draw something first.")).to_be_visible()
        box = await page.locator("canvas.sketch").bounding_box()
        assert box is not None
        await page.mouse.move(box["x"] + 40, box["y"] + 30)
        await page.mouse.down()
        await page.mouse.move(box["x"] + 40, box["y"] + 130, steps=5)
        await page.mouse.up()
        await page.get_by_role("button", name="Classify", exact=True).click()
        await expect(page.locator(".answer-label")).to_have_text(re.compile("[a-z]+"))


async def test_an_operating_point_is_chosen_by_its_row(browser: Browser, running: Running) -> None:
    async with opened(browser, running.address) as page:
        await show_tab(page, "Trade-off")
        row = page.get_by_role("button", name=re.compile(r"^drop-2\b"))
        await row.focus()
        await page.keyboard.press("Enter")
        await policy_becomes(running.edge, operating_point="drop-2")
        await expect(page.get_by_text("operating point drop-2")).to_be_visible()
        await expect(row).to_have_attribute("aria-pressed", "true")


async def test_theta_is_moved_by_the_keyboard(browser: Browser, running: Running) -> None:
    await running.edge.put("/v1/policy", json={"thetas": [0.5]})
    async with opened(browser, running.address) as page:
        await show_tab(page, "Trade-off")
        await expect(page.get_by_text("θ 0.500")).to_be_visible()
        await page.locator("[role=slider] [tabindex]").focus()
        await page.keyboard.press("ArrowRight")
        await policy_becomes(running.edge, thetas=[0.501], operating_point=None)
        await expect(page.get_by_text("θ 0.501")).to_be_visible()


async def test_the_page_follows_what_others_change(browser: Browser, running: Running) -> None:
    async with opened(browser, running.address) as page:
        await show_tab(page, "Trade-off")
        for name in ("drop-1", "full"):
            await running.edge.put("/v1/policy", json={"operating_point": name})
            await expect(page.get_by_text(f"operating point {name}")).to_be_visible()
        await expect(page.get_by_text("θ 1.000")).to_be_visible()


async def test_the_network_is_drawn_with_its_tiers(browser: Browser, running: Running) -> None:
    await running.edge.put("/v1/policy", json={"operating_point": "drop-1"})
    async with opened(browser, running.address) as page:
        await show_tab(page, "Network")
        await expect(page.locator(".net .tier")).to_have_count(2)
        await running.edge.put("/v1/policy", json={"operating_point": "full"})
        await running.edge.post("/v1/predict", content=first_photo(SAMPLES, "trouser"))
        await expect(page.locator(".net")).to_contain_text("feature 5×15×15, 4.6")
        for text in ("block 1", "exit-1", "block 2", "final", "always answers"):
            await expect(page.locator(".net").get_by_text(text, exact=True)).to_be_visible()


async def test_nothing_is_wider_than_a_phone(browser: Browser, running: Running) -> None:
    async with opened(browser, running.address, width=390) as page:
        for tab in TABS:
            await show_tab(page, tab)
            await expect(page.locator(".panel")).to_be_visible()
            assert await page.evaluate("document.documentElement.scrollWidth") <= 390, tab


async def test_colours_follow_the_system_until_switched(browser: Browser, running: Running) -> None:
    dark = re.compile("body--dark")
    async with opened(browser, running.address, scheme="dark") as page:
        await expect(page.locator("body")).to_have_class(dark)
        await page.get_by_role("button", name="colours: follow the system").click()
        await expect(page.locator("body")).not_to_have_class(dark)
        await page.reload()
        await expect(page.get_by_role("button", name="colours: light")).to_be_visible()
        await expect(page.locator("body")).not_to_have_class(dark)


async def test_a_node_out_of_reach_and_one_that_is_none_are_named(browser: Browser) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\n<html")
        await writer.drain()
        writer.close()

    stranger = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = stranger.sockets[0].getsockname()[1]
    edges = [f"http://{closed_port_address()}", f"http://127.0.0.1:{port}"]
    arguments = [argument for edge in edges for argument in ("--edge", edge)]
    async with stranger:
        with node_process("offramp_dashboard", [*arguments, "--port", "0"], name="dashboard") as dashboard:
            async with opened(browser, f"http://{dashboard.address}") as page:
                await expect(page.get_by_text("cannot be reached")).to_be_visible()
                await expect(page.get_by_text("is not Prometheus text")).to_be_visible()
                for tab in TABS:
                    await show_tab(page, tab)
                    await expect(page.locator(".panel")).to_be_visible()
                await expect(page.get_by_text("This node's bundle is not known yet.")).to_be_visible()
