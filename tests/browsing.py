"""A browser on this machine, and a dashboard that watches real nodes to open in it."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import httpx

from offramp.bundle import load_bundle
from offramp.cli.processes import node_process
from tests.conftest import FASHION_BUNDLE, SAMPLES
from tests.nodes import closed_port_address, running_cloud, running_edge

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

CHROMIUM = shutil.which("chromium")
TABS = ("Live", "Try it", "Trade-off", "Network")

Scheme = Literal["dark", "light"]


@dataclass(frozen=True)
class Running:
    """A dashboard, and the edge node it watches."""

    address: str
    edge: httpx.AsyncClient


@asynccontextmanager
async def launched() -> AsyncIterator[Browser]:
    """Chromium without a window."""
    from playwright.async_api import async_playwright

    async with async_playwright() as driver:
        browser = await driver.chromium.launch(
            executable_path=CHROMIUM, args=["--headless", "--no-sandbox", "--disable-gpu"]
        )
        yield browser
        await browser.close()


@asynccontextmanager
async def running_dashboard() -> AsyncIterator[Running]:
    """A cloud node, an edge node in front of it, and a dashboard that watches both."""
    bundle = load_bundle(FASHION_BUNDLE)
    metrics = closed_port_address()
    async with (
        running_cloud(bundle, blocks="2-2", metrics_port=int(metrics.rpartition(":")[2])) as upstream,
        running_edge(bundle, upstream=upstream) as edge,
    ):
        nodes = ["--edge", str(edge.base_url), "--cloud", f"http://{metrics}"]
        arguments = [*nodes, "--samples", str(SAMPLES), "--port", "0"]
        with node_process("offramp_dashboard", arguments, name="dashboard") as dashboard:
            yield Running(f"http://{dashboard.address}", edge)


@asynccontextmanager
async def opened(
    browser: Browser, address: str, *, width: int = 1400, scheme: Scheme = "light"
) -> AsyncIterator[Page]:
    """Open the page in a fresh browser context; fail if it logs an error or contacts anything but the dashboard."""
    context = await browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page = await context.new_page()
    page.set_default_timeout(15_000)
    wrong: list[str] = []
    own = (address, address.replace("http", "ws"), "data:", "blob:")
    page.on("request", lambda request: None if request.url.startswith(own) else wrong.append(request.url))
    page.on("websocket", lambda socket: None if socket.url.startswith(own) else wrong.append(socket.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    try:
        await page.goto(address)
        yield page
        assert not wrong, wrong
    finally:
        await context.close()


async def show_tab(page: Page, name: str) -> None:
    """Open one of the tabs."""
    await page.get_by_role("tab", name=name).click()
