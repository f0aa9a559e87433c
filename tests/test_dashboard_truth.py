"""The dashboard shows what happened: what was sent, what each exit said, and what a person did wrong."""

from __future__ import annotations

import io
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from PIL import Image

from offramp.bundle import Bundle, load_bundle
from offramp.cli.processes import node_process
from offramp_dashboard.words import data_bytes, sent_as
from tests.browsing import CHROMIUM, launched, opened, show_tab
from tests.conftest import FASHION_BUNDLE, SAMPLES
from tests.nodes import closed_port_address, encoded, first_photo, predict, running_cloud, running_edge

if TYPE_CHECKING:
    from playwright.async_api import Browser, FilePayload, Page

pytest.importorskip("nicegui", reason="needs the extra 'dashboard'")
playwright = pytest.importorskip("playwright.async_api", reason="needs playwright, of the extra 'dev'")
axe = pytest.importorskip(
    "axe_playwright_python.async_playwright", reason="needs axe-playwright-python, of the extra 'dev'"
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, as the Debian package installs it")

expect = playwright.expect
LARGE_PHOTO = encoded(
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 400), dtype=np.uint8)), "PNG"
)
# Where each text of a chart stands: [text, left, top, right, bottom].
TEXTS = """
(one) => getElement(+one.id.slice(1)).chart.getZr().storage.getDisplayList()
  .filter((it) => it.style?.text && !it.ignore)
  .map((it) => {
    const box = it.getBoundingRect().clone();
    box.applyTransform(it.transform ?? [1, 0, 0, 1, 0, 0]);
    return [it.style.text, box.x, box.y, box.x + box.width, box.y + box.height];
  })
"""


@dataclass(frozen=True)
class Watched:
    """A dashboard of two edges: one may send photos, pixels or features, the other one's upstream is dead."""

    address: str
    edge: httpx.AsyncClient
    lonely: str


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
async def watched(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Watched]:
    fashion = load_bundle(FASHION_BUNDLE)
    samples = tmp_path_factory.mktemp("samples")
    for label, photo in (("bag", LARGE_PHOTO), ("coat", first_photo(SAMPLES, "coat"))):
        (samples / label).mkdir()
        (samples / label / "one.png").write_bytes(photo)
    async with AsyncExitStack() as stack:
        cloud = await stack.enter_async_context(running_cloud(fashion, blocks="1-2"))
        edge = await stack.enter_async_context(running_edge(fashion, upstream=cloud))
        lonely = await stack.enter_async_context(running_edge(tiny_bundle, upstream=closed_port_address()))
        await edge.put("/v1/policy", json={"operating_point": "full"})
        await lonely.put("/v1/policy", json={"thetas": [1, 1]})
        edges = [argument for one in (edge, lonely) for argument in ("--edge", str(one.base_url))]
        arguments = [*edges, "--samples", str(samples), "--port", "0"]
        dashboard = stack.enter_context(node_process("offramp_dashboard", arguments, name="dashboard"))
        yield Watched(f"http://{dashboard.address}", edge, str(lonely.base_url).partition("://")[2])


@pytest.fixture(scope="module")
async def page(browser: Browser, watched: Watched) -> AsyncIterator[Page]:
    """The dashboard on a wide light screen; tests share it, so each opens its tab and chooses its edge."""
    async with opened(browser, watched.address) as page:
        yield page


async def choose_edge(page: Page, name: str) -> None:
    await page.get_by_role("combobox", name="edge node").click()
    await page.get_by_role("option", name=name).click()


async def upload(page: Page, name: str, contents: bytes, kind: str = "image/png") -> None:
    file: FilePayload = {"name": name, "mimeType": kind, "buffer": contents}
    await page.locator("input[type=file]").set_input_files(file)


async def test_bytes_and_payloads_are_those_that_were_sent(page: Page, watched: Watched) -> None:
    # The first photos of this dashboard, sent under the θ that it began with.
    bag = first_photo(SAMPLES, "bag")
    rough = encoded(Image.open(io.BytesIO(bag)), "WEBP", quality=0)
    answers = [await predict(watched.edge, photo) for photo in (bag, rough)]
    assert {answer["sent"] for answer in answers} == {"pixels", "image"}
    for answer in answers:
        sent = f"{sent_as(answer['sent'])}, {data_bytes(answer['uplink_bytes'])} each"
        for tab, before in {"Network": "50 % ", "Trade-off": "", "Live": "1 × "}.items():
            await show_tab(page, tab)
            await expect(page.locator(".panel")).to_contain_text(before + sent)


async def test_each_exit_shows_its_own_confidence_against_its_theta(page: Page, watched: Watched) -> None:
    await watched.edge.put("/v1/policy", json={"thetas": [0.9999]})
    photo = first_photo(SAMPLES, "shirt")
    first, last = (await predict(watched.edge, photo))["exits"]
    await show_tab(page, "Try it")
    await upload(page, "shirt.png", photo)
    said = page.locator(".exits .said")
    await expect(said.nth(0)).to_have_text(f"{first['confidence']:.3f} < θ 1.000")
    await expect(said.nth(1)).to_have_text(f"{last['confidence']:.3f} · always answers")
    await expect(page.locator(".exits .fill")).to_have_count(2)


async def test_a_photo_of_any_size_is_shown_beside_the_pixels_the_network_sees(page: Page) -> None:
    photo = encoded(Image.new("RGB", (1024, 1024), "olive"), "PNG", compress_level=0)
    assert len(photo) > 3_000_000
    await show_tab(page, "Try it")
    await upload(page, "large.png", photo)
    for name, width in (("the photo", 512), ("what the network sees", 28)):
        picture = page.get_by_role("img", name=name)
        await expect(picture).to_be_visible()
        await expect(picture).to_have_js_property("naturalWidth", width)


async def test_thetas_set_by_hand_stand_among_the_operating_points(page: Page, watched: Watched) -> None:
    await show_tab(page, "Trade-off")
    by_hand = page.locator(".point.by-hand")
    await watched.edge.put("/v1/policy", json={"operating_point": "drop-1"})
    await expect(by_hand).to_be_hidden()
    await watched.edge.put("/v1/policy", json={"thetas": [0.765]})
    await expect(by_hand).to_contain_text("0.765")
    chart = page.locator(".chart.tall")
    for _ in range(40):  # photos of the seconds before were decided by another θ
        await predict(watched.edge, first_photo(SAMPLES, "bag"))
        if any(text == "θ by hand, here" for text, *_ in await chart.evaluate(TEXTS)):
            break
        await page.wait_for_timeout(250)
    else:
        raise AssertionError("θ by hand is not drawn")


async def test_every_operating_point_is_named_in_the_chart(browser: Browser, watched: Watched) -> None:
    names = {point.name for point in load_bundle(FASHION_BUNDLE).manifest.operating_points}
    for width in (1400, 390):
        async with opened(browser, watched.address, width=width) as page:
            await show_tab(page, "Trade-off")
            chart = page.locator(".chart.tall")
            await expect(chart.locator("canvas")).to_be_visible()
            await page.wait_for_function(
                f"(one) => ({TEXTS})(one).some(([text]) => text === 'full')", arg=await chart.element_handle()
            )
            boxes = [box for box in await chart.evaluate(TEXTS) if box[0] in names]
            assert {name for name, *_ in boxes} == names
            wide = await chart.evaluate("(one) => one.clientWidth")
            assert all(left >= 0 and right <= wide for _, left, _, right, _ in boxes)
            tops = sorted((top, bottom) for _, _, top, _, bottom in boxes)
            assert all(upper[1] <= lower[0] + 3 for upper, lower in pairwise(tops)), tops


async def test_a_row_of_an_operating_point_looks_like_one_to_choose(page: Page) -> None:
    await show_tab(page, "Trade-off")
    row = page.get_by_role("button", name=re.compile(r"^drop-2\b"))
    circle = await row.evaluate(
        "(row) => { const it = getComputedStyle(row.firstElementChild, '::before');"
        " return [it.content, it.borderRadius, getComputedStyle(row).cursor]; }"
    )
    assert circle == ['""', "50%", "pointer"]
    await row.click()
    await expect(page.get_by_text("operating point drop-2")).to_be_visible()


async def test_a_file_that_is_no_photo_is_called_that(page: Page) -> None:
    await show_tab(page, "Try it")
    await upload(page, "README.md", b"# Offramp\n" * 1800, "text/markdown")
    message = page.get_by_role("alert").filter(has_text="README.md")
    await expect(message).to_contain_text("README.md (18 kB) is not a photo.")


async def test_a_photo_that_is_too_large_is_called_that(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "huge.png"
    with file.open("wb") as huge:
        huge.truncate(33_000_000)
    await show_tab(page, "Try it")
    await page.locator("input[type=file]").set_input_files(file)
    await expect(page.get_by_text("huge.png (33 MB) is larger than 32 MB")).to_be_visible()


async def test_a_sample_above_a_hundred_kilobytes_is_offered_too(page: Page) -> None:
    assert len(LARGE_PHOTO) > 100_000
    await show_tab(page, "Try it")
    await page.get_by_role("button", name="Classify this bag").click()
    await expect(page.get_by_text(f"the photo is {data_bytes(len(LARGE_PHOTO))}")).to_be_visible()


async def test_one_draws_only_for_a_network_that_takes_drawings(page: Page, watched: Watched) -> None:
    await show_tab(page, "Try it")
    pad = page.locator("canvas.sketch")
    await expect(pad).to_be_visible()
    await choose_edge(page, watched.lonely)
    await expect(pad).to_be_hidden()
    await choose_edge(page, "all 2 edges")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_message_can_be_read_and_goes_with_its_tab(
    browser: Browser, watched: Watched, scheme: Any
) -> None:
    async with opened(browser, watched.address, scheme=scheme) as page:
        await show_tab(page, "Try it")
        await page.get_by_role("button", name="Classify", exact=True).click()
        message = page.get_by_role("alert").filter(has_text="Draw something first.")
        await expect(message.get_by_role("button", name="Close")).to_be_visible()
        await page.evaluate("Promise.allSettled(document.getAnimations().map((one) => one.finished))")
        found = await axe.Axe().run(page)
        assert not found.response["violations"], found.generate_report()
        await show_tab(page, "Live")
        await expect(message).to_be_hidden()


async def test_an_answer_without_its_upstream_says_so(page: Page, watched: Watched) -> None:
    await show_tab(page, "Try it")
    await choose_edge(page, watched.lonely)
    await upload(page, "a.png", first_photo(SAMPLES, "bag"))
    await expect(page.get_by_text("nothing sent, because the upstream is out of reach")).to_be_visible()
    await expect(page.locator(".exits .said").first).to_contain_text("< θ 1.000, but the surest here")
    await show_tab(page, "Live")
    tile = page.locator(".tile").filter(has_text="Answered at the edge")
    await expect(tile).to_contain_text("100 % more, but degraded")
    await expect(page.locator(".panel")).not_to_contain_text("not needed")
    await choose_edge(page, "all 2 edges")
    schema = (await watched.edge.get("/openapi.json")).text
    assert "not needed" not in schema and "known to be down" in schema


async def test_each_of_several_edges_has_a_row(page: Page, watched: Watched) -> None:
    await show_tab(page, "Live")
    rows = page.locator(".rows tbody tr")
    await expect(rows).to_have_count(2)
    await expect(rows.nth(0)).to_contain_text(re.compile(r"127\.0\.0\.1:\d+.*up$"))
    await expect(rows.nth(1)).to_contain_text(watched.lonely)
    await expect(rows.nth(1)).to_contain_text("down: ")


async def test_legends_fit_a_phone(browser: Browser, watched: Watched) -> None:
    await watched.edge.put("/v1/policy", json={"thetas": [0.9]})
    async with opened(browser, watched.address, width=390) as page:
        for label in ("bag", "shirt", "coat"):
            await predict(watched.edge, first_photo(SAMPLES, label))
        entries = page.locator(".legend-entry")
        await expect(entries.filter(has_text="final · cloud")).to_be_visible()
        boxes = await entries.evaluate_all(
            "(all) => all.map((one) => { const b = one.getBoundingClientRect(); return [b.left, b.right, b.height]; })"
        )
        assert all(left >= 0 and right <= 390 and height > 10 for left, right, height in boxes), boxes


async def test_axe_finds_nothing_with_several_edges_and_thetas_by_hand(
    browser: Browser, watched: Watched
) -> None:
    await watched.edge.put("/v1/policy", json={"thetas": [0.9]})
    async with opened(browser, watched.address, width=390, scheme="dark") as page:
        for tab, shown in {"Live": ".rows", "Trade-off": ".point.by-hand"}.items():
            await show_tab(page, tab)
            await expect(page.locator(shown)).to_be_visible()
            await page.evaluate("Promise.allSettled(document.getAnimations().map((one) => one.finished))")
            found = await axe.Axe().run(page)
            assert not found.response["violations"], found.generate_report()
