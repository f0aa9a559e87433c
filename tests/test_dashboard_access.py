"""Whether everybody can use the dashboard: axe's rules, and the keyboard alone."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.browsing import CHROMIUM, TABS, Running, Scheme, launched, opened, running_dashboard, show_tab
from tests.conftest import SAMPLES
from tests.nodes import first_photo

if TYPE_CHECKING:
    from playwright.async_api import Browser, FilePayload, Page

pytest.importorskip("nicegui", reason="needs the extra 'dashboard'")
playwright = pytest.importorskip("playwright.async_api", reason="needs playwright, of the extra 'dev'")
axe = pytest.importorskip(
    "axe_playwright_python.async_playwright", reason="needs axe-playwright-python, of the extra 'dev'"
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, as the Debian package installs it")
expect = playwright.expect

LOOKS: list[tuple[Scheme, int]] = [("light", 1400), ("dark", 1400), ("light", 390), ("dark", 390)]
# What can be focused, but for tabs that are not open: arrows go to those.
FOCUSABLE = (
    ":is(a[href], button, input, select, textarea, [tabindex])"
    ':not([tabindex="-1"], :disabled, [type="file"], [role="tab"][aria-selected="false"])'
)
# A line around the smallest control that is allowed, 24 by 24 pixels: success criteria 2.4.13 and 2.5.8 of the Web
# Content Accessibility Guidelines 2.2.
LEAST_PIXELS = 4 * 24


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
async def running() -> AsyncIterator[Running]:
    async with running_dashboard() as running:
        await running.edge.post("/v1/predict", content=first_photo(SAMPLES, "trouser"))
        yield running


async def fill(page: Page, tab: str) -> None:
    """Open a tab and have it show all it can."""
    await show_tab(page, tab)
    await expect(page.locator(".panel")).to_be_visible()
    if tab == "Try it":
        await page.get_by_role("button", name="Classify this trouser").click()
        await expect(page.locator(".answer-label")).to_be_visible()


@pytest.mark.parametrize(("scheme", "width"), LOOKS)
async def test_axe_finds_nothing(browser: Browser, running: Running, scheme: Scheme, width: int) -> None:
    async with opened(browser, running.address, width=width, scheme=scheme) as page:
        for tab in TABS:
            await fill(page, tab)
            # What fades in is pale while it does.
            await page.evaluate("Promise.allSettled(document.getAnimations().map((one) => one.finished))")
            found = await axe.Axe().run(page)
            assert not found.response["violations"], tab + "\n".join(
                map(described, found.response["violations"])
            )


def described(violation: dict[str, Any]) -> str:
    places = "".join(f"\n  {node['html'][:200]}: {node['failureSummary']}" for node in violation["nodes"])
    return f"{violation['impact']}: {violation['id']}, {violation['help']}{places}"


@pytest.mark.parametrize(("scheme", "width"), [("light", 1400), ("dark", 390)])
@pytest.mark.parametrize("tab", TABS)
async def test_the_keyboard_reaches_everything_and_shows_where_it_is(
    browser: Browser, running: Running, tab: str, scheme: Scheme, width: int
) -> None:
    async with opened(browser, running.address, width=width, scheme=scheme) as page:
        await fill(page, tab)
        # From the top of the page, wherever the click on the tab was; a tab that has the focus has no tab stop.
        await page.locator(".brand").click()
        await expect(page.get_by_role("tab", name=tab)).to_have_attribute("tabindex", "0")
        wanted = page.locator(FOCUSABLE).filter(visible=True)
        count = await wanted.count()
        assert count >= 2  # the open tab and the colours
        await wanted.evaluate_all("(all) => all.forEach((one, at) => (one.dataset.at = at))")
        for at in range(count):
            await page.keyboard.press("Tab")
            focused = page.locator(":focus")
            html = await focused.evaluate("(one) => one.outerHTML.slice(0, 300)")
            assert await focused.get_attribute("data-at") == str(at), html
            assert await pixels_of_focus(page) >= LEAST_PIXELS, html


async def test_arrows_go_from_tab_to_tab(browser: Browser, running: Running) -> None:
    async with opened(browser, running.address) as page:
        await page.locator(".brand").click()
        await page.keyboard.press("Tab")
        for name in TABS[1:]:
            await page.keyboard.press("ArrowRight")
            await expect(page.get_by_role("tab", name=name)).to_be_focused()
            await page.keyboard.press("Enter")
            await expect(page.get_by_role("tab", name=name)).to_have_attribute("aria-selected", "true")


async def test_a_photo_is_chosen_by_the_keyboard(browser: Browser, running: Running) -> None:
    async with opened(browser, running.address) as page:
        await show_tab(page, "Try it")
        choose = page.get_by_role("button", name="Choose a photo")
        await choose.hover()  # waits until the tab no longer moves, which takes the focus with it
        async with page.expect_file_chooser() as chooser:
            await choose.press("Enter")
        photo: FilePayload = {"name": "a.png", "mimeType": "image/png", "buffer": first_photo(SAMPLES, "bag")}
        await (await chooser.value).set_files(photo)
        await expect(page.locator(".answer-label")).to_have_text("bag")


async def pixels_of_focus(page: Page) -> int:
    """How many pixels in and around what is focused change with the focus, at a contrast of 3 : 1."""
    x, y, width, height = await page.evaluate(
        """() => {
          const box = document.activeElement.getBoundingClientRect(), beside = 8;
          const left = Math.max(0, box.left - beside), top = Math.max(0, box.top - beside);
          const right = Math.min(innerWidth, box.right + beside), bottom = Math.min(innerHeight, box.bottom + beside);
          return [left, top, right - left, bottom - top];
        }"""
    )
    assert width > 0 and height > 0, "what is focused is not in view"
    pictures = []
    for _ in range(2):
        png = await page.screenshot(
            clip={"x": x, "y": y, "width": width, "height": height}, animations="disabled"
        )
        pictures.append(luminance(np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))))
        # The next Tab goes on from here all the same.
        await page.evaluate("document.activeElement.blur()")
    dark, light = np.minimum(*pictures), np.maximum(*pictures)
    return int(np.count_nonzero((light + 0.05) / (dark + 0.05) >= 3))


def luminance(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Relative luminance, 0 to 1, as the Web Content Accessibility Guidelines define it."""
    share = pixels / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return np.asarray(linear @ np.array([0.2126, 0.7152, 0.0722]))
