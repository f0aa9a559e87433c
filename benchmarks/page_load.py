"""How soon the dashboard is usable: seconds from opening its address until it shows figures and a control reacts.

    python -m benchmarks.page_load models/b-lenet-fashion --photos samples/fashion-mnist

A cloud node, an edge node, a stream of photos and the dashboard run on this machine. Debian's Chromium opens the page
repeatedly, first with an empty cache, then with a filled one. A control has reacted when the server's answer to a click
is on the page. It needs chromium (`apt-get install chromium`) and playwright (the extra `dev`).
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from threading import Event, Thread
from typing import TYPE_CHECKING

import httpx
from pydantic import Field
from pydantic_settings import CliPositionalArg
from rich.console import Console
from rich.table import Table

from offramp.cli.processes import node_process
from offramp.cli.progress import progress
from offramp.command import Command, run_command
from offramp.errors import ConfigError

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

_WARM_UP_S = 5.0  # of the stream, so that there are figures to show


@dataclass(frozen=True)
class Load:
    """One load of the page: seconds since the navigation started, and what came over the socket."""

    figures_s: float
    reacts_s: float
    tabs_s: float
    files: int
    data_bytes: int


class PageLoad(Command):
    """Measure how long the dashboard's page takes to open, with an empty cache and with a filled one.

    Example: python -m benchmarks.page_load models/b-lenet-fashion --photos samples/fashion-mnist
    """

    bundle: CliPositionalArg[Path] = Field(
        default=Path("models/b-lenet-fashion"), description="directory of the bundle"
    )
    photos: Path = Field(
        default=Path("samples/fashion-mnist"), description="folder of photos, one sub-folder per class"
    )
    rounds: int = Field(default=9, ge=1, description="page loads of each kind")
    width: int = Field(default=1400, ge=300, description="width of the window, in pixels")
    as_json: bool = Field(default=False, alias="json", description="print one JSON object")

    def execute(self) -> None:
        """Open the page repeatedly and show the medians."""
        chromium = shutil.which("chromium")
        if chromium is None:
            raise ConfigError("chromium is missing; install it, for example with apt-get install chromium")
        from playwright.sync_api import sync_playwright

        arguments = ["--headless", "--no-sandbox", "--disable-gpu"]
        with _dashboard(self.bundle, self.photos) as address, sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=chromium, args=arguments)
            found = _measured(browser, address, self.rounds, self.width)
            browser.close()
        if self.as_json:
            print(json.dumps({kind: [asdict(load) for load in loads] for kind, loads in found.items()}))
            return
        Console().print(_table(found, self.rounds))


def _measured(browser: Browser, address: str, rounds: int, width: int) -> dict[str, list[Load]]:
    found: dict[str, list[Load]] = {"empty": [], "filled": []}
    with progress("page loads", 2 * rounds) as advance:
        for _ in range(rounds):
            context = browser.new_context(viewport={"width": width, "height": 900})
            for loads in found.values():
                loads.append(_opened(context, address))
                advance(1)
            context.close()
    return found


def _opened(context: BrowserContext, address: str) -> Load:
    page = context.new_page()
    begin = time.perf_counter()
    page.goto(address, wait_until="commit")
    page.wait_for_function(_SHOWS_FIGURES)
    figures_s = time.perf_counter() - begin
    page.get_by_role("button", name="10 min").click()
    page.get_by_text("in 10 min").wait_for()
    reacts_s = time.perf_counter() - begin
    tabs_s = max(_tab_opened(page, name, shows) for name, shows in _TABS.items())
    files, data_bytes = page.evaluate(_CARRIED)
    page.close()
    return Load(figures_s, reacts_s, tabs_s, files, data_bytes)


def _tab_opened(page: Page, name: str, shows: str) -> float:
    begin = time.perf_counter()
    page.get_by_role("tab", name=name).click()
    page.locator(shows).first.wait_for()
    return time.perf_counter() - begin


# The first tile shows a figure, not a dash, and a chart has been drawn.
_SHOWS_FIGURES = """() => {
  const value = document.querySelector(".tile-value");
  return /[0-9]/.test(value?.textContent ?? "") && document.querySelector(".chart :is(canvas, svg)") !== null;
}"""
# Files that came over the socket, not from the cache, and their bytes, headers included.
_CARRIED = """() => {
  const sizes = ["navigation", "resource"].flatMap((kind) => performance.getEntriesByType(kind))
    .map((entry) => entry.transferSize).filter((size) => size > 0);
  return [sizes.length, sizes.reduce((sum, size) => sum + size, 0)];
}"""
# For each other tab, an element that shows that it is ready.
_TABS = {"Try it": ".sample", "Trade-off": ".chart :is(canvas, svg)", "Network": ".net-exit"}


@contextmanager
def _dashboard(bundle: Path, photos: Path) -> Iterator[str]:
    common = [str(bundle), "--port", "0"]
    with (
        node_process("cloud_node", common, name="cloud") as cloud,
        node_process("edge_node", [*common, "--upstream", cloud.address], name="edge") as edge,
        node_process(
            "offramp_dashboard",
            ["--edge", f"http://{edge.address}", "--samples", str(photos), "--port", "0"],
            name="dashboard",
        ) as dashboard,
        _stream(f"http://{edge.address}", photos),
    ):
        yield f"http://{dashboard.address}"


@contextmanager
def _stream(edge: str, photos: Path) -> Iterator[None]:
    files = sorted(photos.glob("*/*.*"))
    if not files:
        raise ConfigError(f"{photos} has no photos in sub-folders; give --photos DIR")
    stop = Event()

    def send() -> None:
        with httpx.Client(base_url=edge, timeout=30, trust_env=False) as client:
            while not stop.is_set():
                for file in files:
                    client.post("/v1/predict", content=file.read_bytes()).raise_for_status()
                    if stop.wait(0.1):
                        return

    thread = Thread(target=send)
    thread.start()
    try:
        time.sleep(_WARM_UP_S)
        yield
    finally:
        stop.set()
        thread.join()


def _table(found: dict[str, list[Load]], rounds: int) -> Table:
    table = Table(title=f"medians of {rounds} page loads, the slowest in brackets")
    for column in ("cache", "figures", "a control reacts", "slowest other tab", "files", "over the socket"):
        table.add_column(column, justify="left" if column == "cache" else "right")
    for kind, loads in found.items():
        table.add_row(
            kind,
            *(
                _seconds([getattr(load, name) for load in loads])
                for name in ("figures_s", "reacts_s", "tabs_s")
            ),
            f"{median(load.files for load in loads):.0f}",
            f"{median(load.data_bytes for load in loads) / 1e3:.0f} kB",
        )
    return table


def _seconds(each: list[float]) -> str:
    return f"{median(each):.2f} s ({max(each):.2f})"


if __name__ == "__main__":
    run_command(PageLoad, sys.argv[1:], program="python -m benchmarks.page_load")
