"""The documentation: short enough, no broken link, nothing loaded from elsewhere. `make docs` builds it."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^ *(`{3,}).*?^ *\1$", re.MULTILINE | re.DOTALL)

PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/**/*.md", "samples/*.md")
    for path in ROOT.glob(pattern)
)


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def mkdocs_config() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(text_of(ROOT / "mkdocs.yml"))
    return config


def names_in(value: Any) -> list[str]:
    """Every key and every text of a configuration, however deep."""
    match value:
        case dict():
            return [name for key, inner in value.items() for name in (str(key), *names_in(inner))]
        case list():
            return [name for inner in value for name in names_in(inner)]
        case _:
            return [str(value)]


@pytest.mark.parametrize(("page", "lines"), [("README.md", 120), ("ARCHITECTURE.md", 200)])
def test_the_front_pages_are_read_in_minutes(page: str, lines: int) -> None:
    assert len(text_of(ROOT / page).splitlines()) <= lines


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    targets = _LINK.findall(_FENCE.sub("", text_of(page)))
    places = [target.partition("#")[0] for target in targets if "://" not in target]
    broken = [place for place in places if place and not (page.parent / place).exists()]
    assert not broken


def test_every_page_is_in_the_navigation() -> None:
    listed = set(names_in(mkdocs_config()["nav"]))
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert pages <= listed


def test_the_site_loads_nothing_from_another_host() -> None:
    config = mkdocs_config()
    assert config["theme"]["font"] is False
    names = names_in(config)
    assert not [name for name in names if "://" in name]
    # Analytics, cards and the offline search come with scripts from elsewhere.
    assert not {"analytics", "social", "offline", "extra_javascript", "extra_css"} & set(names)


def test_no_page_brings_a_script_or_a_picture_from_another_host() -> None:
    foreign = re.compile(r"!\[[^\]]*\]\(\w+://|<(?:script|link|img|iframe)\b[^>]*://")
    assert not [str(page) for page in PAGES if foreign.search(text_of(page))]


def test_the_page_about_your_own_model_shows_the_example_that_is_tested() -> None:
    assert '--8<-- "examples/own_model.py"' in text_of(ROOT / "docs/own-model.md")


def test_the_pages_of_settings_and_commands_are_what_the_commands_say() -> None:
    generate = runpy.run_path(str(ROOT / "docs" / "generate.py"))
    for name, text in generate["pages"]().items():
        assert text_of(ROOT / "docs" / name) == text, f"docs/{name} is stale; run `python docs/generate.py`"
