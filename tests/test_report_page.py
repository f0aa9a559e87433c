"""The page of an evaluation: what it says, and that everybody can read it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.browsing import CHROMIUM, Scheme, launched
from tests.commands import offramp
from tests.conftest import FASHION_BUNDLE, SAMPLES

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

pytest.importorskip("matplotlib", reason="pages need the extra `report`")

from offramp.authoring.evaluation.confusion import ConfusedPair, confusion
from offramp.authoring.evaluation.page import by_chance
from offramp.authoring.evaluation.statistics import rarely

LOOKS: list[tuple[Scheme, int]] = [("light", 1400), ("dark", 1400), ("light", 390), ("dark", 390)]
needs_a_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="needs chromium, as the Debian package installs it"
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    given = ["--data", str(SAMPLES), "--limit", "100", "--rival", str(FASHION_BUNDLE), "--page", str(path)]
    result = offramp("evaluate", str(FASHION_BUNDLE), *given)
    assert result.exit_code == 0, result.stderr
    return path


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    pytest.importorskip("playwright.async_api", reason="needs playwright, of the extra 'dev'")
    async with launched() as browser:
        yield browser


async def shown(browser: Browser, file: Path, scheme: Scheme, width: int) -> Page:
    context = await browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page = await context.new_page()
    await page.goto(file.as_uri())
    return page


@needs_a_browser
@pytest.mark.parametrize(("scheme", "width"), LOOKS)
async def test_axe_finds_nothing_and_nothing_is_wider_than_the_window(
    browser: Browser, file: Path, scheme: Scheme, width: int
) -> None:
    axe: Any = pytest.importorskip(
        "axe_playwright_python.async_playwright", reason="needs axe-playwright-python, of the extra 'dev'"
    )
    page = await shown(browser, file, scheme, width)
    await page.locator("details").evaluate("(one) => (one.open = true)")
    assert await page.evaluate("document.documentElement.scrollWidth") <= width
    found = await axe.Axe().run(page)
    assert not found.response["violations"], found.generate_report()


@needs_a_browser
async def test_plots_have_the_colour_of_the_text_on_a_light_and_on_a_dark_page(
    browser: Browser, file: Path
) -> None:
    colours = {}
    for scheme in ("light", "dark"):
        page = await shown(browser, file, "dark" if scheme == "dark" else "light", 1400)
        colours[scheme] = await page.evaluate(
            "['body', '.plots svg text', '.trade-off svg text'].map((of) => {"
            " const it = getComputedStyle(document.querySelector(of)); return of === 'body' ? it.color : it.fill; })"
        )
    assert len(set(colours["light"])) == len(set(colours["dark"])) == 1
    assert colours["light"] != colours["dark"]


@needs_a_browser
async def test_each_photo_says_what_it_is_and_what_the_network_said(browser: Browser, file: Path) -> None:
    page = await shown(browser, file, "light", 1400)
    captions = await page.locator("figure").evaluate_all(
        "(all) => all.map((one) => [one.className, ...[...one.querySelectorAll('b')].map((it) => it.textContent)])"
    )
    assert len(captions) == 48
    for kind, true, predicted in captions:
        assert (kind == "right") == (true == predicted)
    assert {kind for kind, *_ in captions} == {"right", "wrong"}


def test_the_page_names_its_data_its_date_and_its_command(file: Path) -> None:
    page = file.read_text(encoding="utf-8")
    assert f"100, of {SAMPLES}, test part" in page
    assert f"{datetime.now(UTC):%Y-%m-%d}" in page
    assert re.search(r"<code>offramp evaluate .*b-lenet-fashion --data .*--limit 100", page)


def test_chances_are_told_in_words(file: Path) -> None:
    assert not re.search(r"\bp [<=]", file.read_text(encoding="utf-8"))
    assert [rarely(p) for p in (1e-9, 0.002, 0.1, 0.34)] == [
        "less than once in 1,000 times",
        "once in 500 times",
        "once in 10 times",
        "34 % of the time",
    ]
    assert by_chance(1e-9).startswith("more than chance: ")
    assert by_chance(0.5).startswith("chance explains the difference: ")


def test_the_classes_that_are_confused_most_come_first() -> None:
    true = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2])
    said = np.array([0, 1, 1, 2, 1, 0, 2, 2, 2])
    found = confusion(true, said, ("ant", "bee", "<cat>"))
    assert found.counts_KK.tolist() == [[1, 2, 1], [1, 1, 0], [0, 0, 3]]
    assert found.pairs == [
        ConfusedPair("ant", "bee", 2, 4),
        ConfusedPair("bee", "ant", 1, 2),
        ConfusedPair("ant", "<cat>", 1, 4),
    ]
    assert found.picture is not None and "&lt;cat&gt;" in found.picture and "<cat>" not in found.picture


def test_of_very_many_classes_only_the_pairs_are_shown() -> None:
    classes = np.arange(1000)
    found = confusion(classes, (classes + 1) % 1000, [f"class-{at}" for at in classes])
    assert found.picture is None and len(found.pairs) == 20
