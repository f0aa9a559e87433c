"""Small grey photos described by a `labels.csv`, and bundles trained on them, for tasks beyond one label."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from offramp.bundle import Bundle, load_bundle
from tests.commands import offramp

SIDE = 28
BRIGHTNESS = "brightness,levels,0,255,25"
# The options of `train` for each task; each network learns enough in a few steps to answer differently at its exits.
OPTIONS: Mapping[str, tuple[str, ...]] = {
    "multi_label": ("--task", "multi_label"),
    "regression": ("--quantity", BRIGHTNESS),
}

Pixels = NDArray[np.uint8]


def halves(generator: np.random.Generator) -> Pixels:
    """A photo whose left half, right half, both or neither is bright."""
    pixels = generator.integers(0, 60, (SIDE, SIDE))
    pixels[:, : SIDE // 2] += 120 * generator.integers(0, 2)
    pixels[:, SIDE // 2 :] += 120 * generator.integers(0, 2)
    return pixels.astype(np.uint8)


def labels_of(pixels: Pixels) -> str:
    """Which halves are bright."""
    bright = {"left": pixels[:, : SIDE // 2].mean() > 90, "right": pixels[:, SIDE // 2 :].mean() > 90}
    return ";".join(side for side, is_bright in bright.items() if is_bright)


def value_of(pixels: Pixels) -> str:
    """The mean brightness."""
    return f"{pixels.mean():.3f}"


def write_part(folder: Path, column: str, said: Callable[[Pixels], str], *, count: int, seed: int) -> None:
    """Write photos, and the `labels.csv` that describes them."""
    generator = np.random.default_rng(seed)
    (folder / "photos").mkdir(parents=True)
    lines = [f"file,{column}"]
    for number in range(count):
        pixels, name = halves(generator), f"photos/{number:02}.png"
        Image.fromarray(pixels).save(folder / name)
        lines.append(f"{name},{said(pixels)}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_data(folder: Path, kind: str) -> Path:
    """A training and a test part for a task."""
    column, said = ("value", value_of) if kind == "regression" else ("labels", labels_of)
    write_part(folder / "train", column, said, count=64, seed=0)
    write_part(folder / "test", column, said, count=12, seed=1)
    return folder


def made_bundle(folder: Path, kind: str) -> Bundle:
    """A bundle that the commands made of these data, as a person would: trained, exported, certified."""
    data, run, out = write_data(folder / "data", kind), folder / "run", folder / kind.replace("_", "-")
    quick = ("--epochs", "2", "--batch-size", "16", "--learning-rate", "0.02", "--validation", "24")
    commands: list[tuple[str | Path, ...]] = [
        ("train", "b-lenet-mnist", *OPTIONS[kind], *quick, "--data", data, "--out", run),
        ("export", run, "--out", out, "--fit-on", data),
        ("calibrate", out, "--data", data, "--guarantee", "0.4", "--delta", "0.2"),
    ]
    for command in commands:
        result = offramp(*command)
        assert result.exit_code == 0, result.output
    return load_bundle(out)
