"""Images that a network was never meant for: screenshots and noise. Shapes: N images, H x W pixels, C channels."""

from __future__ import annotations

import html
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from offramp.bundle import Preprocessing
from offramp.engine.images import decode_image
from offramp.errors import ConfigError

_ROOT = Path(__file__).parents[2]
_SIZES = ((1280, 800), (390, 844))
_STYLES = (
    "body{font:15px/1.5 sans-serif;max-width:900px;margin:24px auto;color:#222}"
    "code,pre{background:#f2f3f5}td,th{border:1px solid #ccc;padding:3px 8px}h1{color:#00796b}",
    "body{font:15px/1.5 sans-serif;max-width:900px;margin:24px auto;color:#ddd;background:#1e2129}"
    "code,pre{background:#2b2f3a}td,th{border:1px solid #444;padding:3px 8px}h1{color:#4db6ac}",
)
_TERMINAL = "body{margin:0;background:#111;color:#cfd8dc}pre{font:13px/1.35 monospace;padding:10px;margin:0}"
_LISTINGS = (
    "shared/offramp/engine/tier.py",
    "edge_node/predict.py",
    "pyproject.toml",
    "models/b-alexnet-cifar10/bundle.json",
    "Makefile",
    "protos/offramp/wire/v1/wire.proto",
    "shared/offramp/serving/metrics.py",
    "docs/offramp.svg",
)
_LONGEST = 6000  # characters of a listing; no screen shows more


def screenshots(count: int = 20) -> list[bytes]:
    """Screenshots, as PNG files: this project's documentation, light and dark, and its files in a terminal.

    Raises:
        ConfigError: there is no chromium.
    """
    chromium = shutil.which("chromium")
    if chromium is None:
        raise ConfigError(
            "screenshots need chromium, which is not installed; install it, or leave --screenshots out"
        )
    import markdown  # type: ignore[import-untyped] # comes with mkdocs, and without types
    from playwright.sync_api import sync_playwright

    texts = [file.read_text(encoding="utf-8") for file in sorted((_ROOT / "docs").glob("*.md"))]
    pages = [
        f"<style>{_STYLES[n % 2]}</style>{markdown.markdown(text, extensions=['tables', 'fenced_code'])}"
        for n, text in enumerate(texts[: count - len(_LISTINGS)])
    ]
    for name in _LISTINGS:
        text = html.escape((_ROOT / name).read_text(encoding="utf-8")[:_LONGEST])
        pages.append(f"<style>{_TERMINAL}</style><pre>{text}</pre>")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--headless", "--no-sandbox"])
        taken = []
        for number, page in enumerate(pages):
            width, height = _SIZES[number % len(_SIZES)]
            tab = browser.new_page(viewport={"width": width, "height": height})
            tab.set_content(page)
            taken.append(tab.screenshot())
            tab.close()
        browser.close()
    return taken


def as_pixels(files: list[bytes], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Files as a network takes them (N, H, W, C)."""
    return np.stack([decode_image(file, preprocessing) for file in files])


def noise(preprocessing: Preprocessing, count: int = 200) -> NDArray[np.uint8]:
    """A third each: every pixel of any value, grey with a grain, and large coloured blobs (N, H, W, C)."""
    generator = np.random.default_rng(0)
    height, width, channels = preprocessing.pixel_shape
    third = (count // 3, height, width, channels)
    even = generator.integers(0, 256, third)
    grain = generator.normal(128, 40, third).clip(0, 255)
    blobs = np.stack([_blobs(generator, preprocessing) for _ in range(third[0])])
    return np.concatenate([even, grain, blobs]).astype(np.uint8)


def _blobs(generator: np.random.Generator, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    small = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    large = small.resize((preprocessing.width, preprocessing.height), Image.Resampling.BICUBIC)
    pixels = np.asarray(large.convert("L" if preprocessing.channels == 1 else "RGB"))
    return pixels.reshape(preprocessing.pixel_shape)
