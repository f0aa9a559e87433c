"""The dashboard says which photos the network finds unfamiliar."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from offramp.bundle import Bundle
from offramp.cli.processes import node_process
from tests.browsing import CHROMIUM, launched, opened, show_tab
from tests.nodes import png, running_edge
from tests.test_guard import familiar, guarded, screens

if TYPE_CHECKING:
    from playwright.async_api import FilePayload

playwright = pytest.importorskip("playwright.async_api", reason="needs playwright, of the extra 'dev'")
pytest.importorskip("nicegui", reason="needs the extra 'dashboard'")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, as the Debian package installs it")

__all__ = ["guarded"]  # a fixture


async def test_a_photo_unlike_those_the_network_knows_is_called_so(guarded: Bundle) -> None:
    async with running_edge(guarded, blocks="1-3") as edge, launched() as browser:
        arguments = ["--edge", str(edge.base_url), "--port", "0"]
        with node_process("offramp_dashboard", arguments, name="dashboard") as dashboard:
            async with opened(browser, f"http://{dashboard.address}") as page:
                await show_tab(page, "Try it")
                said = page.get_by_text("unfamiliar: the picture is unlike those")
                for pixels, is_familiar in ((familiar(3, 1)[0], True), (screens(1)[0], False)):
                    file: FilePayload = {"name": "one.png", "mimeType": "image/png", "buffer": png(pixels)}
                    await page.locator("input[type=file]").set_input_files(file)
                    await playwright.expect(page.get_by_text("left at")).to_be_visible()
                    await playwright.expect(said).to_be_visible(visible=not is_familiar)
