"""Bytes against accuracy of everything that could be sent: pictures in every codec, and features at every precision.

    python -m benchmarks.rates models/b-lite0-grocery --data data/grocery.zip --page benchmarks/rates/b-lite0-grocery.md

Each way is judged twice: all photos sent, answered by the last exit; and the system at its default operating point,
where only the undecided photos are sent. JPEG XL needs the package pillow-jxl-plugin.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic_settings import CliPositionalArg
from rich.console import Console

from benchmarks.wire.page import colour_of, finish
from benchmarks.wire.photos import CODECS, decoded, encoded
from offramp.authoring.data import LabelledImages, load_images
from offramp.authoring.planning.rounding import Rounding
from offramp.bundle import Bundle, load_bundle
from offramp.cli.progress import progress
from offramp.command import Command, run_command
from offramp.engine.payload import PayloadRule
from offramp.engine.runtime import load_blocks


@dataclass(frozen=True)
class Way:
    """One way to send: mean bytes of all photos, and of the undecided ones; accuracies, 0 to 1."""

    name: str
    all_bytes: float
    offload_bytes: float
    full_accuracy: float
    system_accuracy: float


class Rates(Command):
    """Compare what a photo takes and what is answered to it, for every codec and precision.

    Example: python -m benchmarks.rates models/b-lite0-grocery --data data/grocery.zip --count 500
    """

    bundle: CliPositionalArg[Path] = Field(description="directory of the bundle")
    data: Path = Field(description="its test data, in files")
    count: int = Field(default=500, ge=2, description="test photos, spaced evenly")
    page: Path | None = Field(
        default=None, description="also write this Markdown file, and its plot next to it"
    )

    def execute(self) -> None:
        """Measure, and print the page."""
        loaded = load_bundle(self.bundle)
        images = load_images(self.data, "test", loaded.manifest.preprocessing)
        chosen = np.linspace(0, len(images) - 1, min(self.count, len(images))).astype(np.int64)
        images = images.take(chosen)
        ways = _Sent(loaded, images).ways()
        text = _page(self.bundle.name, self.data.name, len(images), ways)
        Console().print(text, highlight=False, markup=False, soft_wrap=True)
        if self.page:
            _plot(ways, self.page.with_suffix(".svg"))
            plot = f"![bytes against accuracy]({self.page.stem}.svg)"
            self.page.write_text(f"{text}\n{plot}\n", encoding="utf-8")


class _Sent:
    """Sends all photos in one way after the other."""

    def __init__(self, bundle: Bundle, images: LabelledImages) -> None:
        manifest = bundle.manifest
        self._blocks = load_blocks(bundle, 1, len(manifest.blocks))
        self._images = images
        self._truth_N = images.classes_as(manifest.labels)
        self._split = manifest.operating_point.split_point
        self._rule = PayloadRule.at(manifest, self._split)
        self._rounding = Rounding.of(manifest.blocks[self._split - 2])
        thetas = manifest.operating_point.thetas
        edge = [self._edge(image, thetas) for image in images.pixels]
        self._answer_N = np.array([answer for answer, _ in edge])
        self._features = [feature for _, feature in edge]

    def ways(self) -> Sequence[Way]:
        """All ways, the largest first."""
        found = []
        with progress("ways", len(CODECS) + len(self._rounding.names) + 3) as advance:
            for name, options in {"raw": None, **CODECS}.items():
                found.append(self._pictures(name, options))
                advance(1)
            for name in self._rounding.names:
                found.append(self._way(f"feature, {name}", self._at(name)))
                advance(1)
            found.append(self._way("feature, as it is", self._as_it_is()))
            advance(1)
            found.append(self._published())
            advance(1)
        return sorted(found, key=lambda way: -way.all_bytes)

    def _edge(self, image: NDArray[np.uint8], thetas: Sequence[float]) -> tuple[int, NDArray[Any]]:
        """Class of the exit that answers at the edge, -1 if none does; and the feature at the split."""
        batch: NDArray[Any] = image[np.newaxis]
        answer, exit = -1, 0
        for block in self._blocks[: self._split - 1]:
            output = block.run(batch)
            if output.probabilities is not None:
                if answer < 0 and output.verdicts[0][0] >= np.float32(thetas[exit]):
                    answer = int(output.probabilities[0].argmax())
                exit += 1
            assert output.feature is not None
            batch = output.feature
        return answer, batch

    def _last(self, batch: NDArray[Any], *, first_block: int) -> int:
        for block in self._blocks[first_block - 1 :]:
            output = block.run(batch)
            batch = batch if output.feature is None else output.feature
        assert output.probabilities is not None
        return int(output.probabilities[0].argmax())

    def _pictures(self, name: str, options: Mapping[str, Any] | None) -> Way:
        def send(number: int) -> tuple[int, int]:
            image = self._images.pixels[number]
            if options is None:
                return image.nbytes, self._last(image[np.newaxis], first_block=1)
            data = encoded(image, options)
            return len(data), self._last(decoded(data, image.shape)[np.newaxis], first_block=1)

        return self._way(name, send)

    def _at(self, precision: str) -> Callable[[int], tuple[int, int]]:
        def send(number: int) -> tuple[int, int]:
            num_bytes, arrived = self._rounding.sent(precision, self._features[number])
            return num_bytes, self._last(arrived, first_block=self._split)

        return send

    def _as_it_is(self) -> Callable[[int], tuple[int, int]]:
        def send(number: int) -> tuple[int, int]:
            feature = self._features[number]
            return round(self._rule.feature_bytes), self._last(feature, first_block=self._split)

        return send

    def _published(self) -> Way:
        sizes = self._images.file_bytes
        assert sizes is not None

        def send(number: int) -> tuple[int, int]:
            return int(sizes[number]), self._last(self._images.pixels[number][np.newaxis], first_block=1)

        return self._way("photo as it came", send)

    def _way(self, name: str, send: Callable[[int], tuple[int, int]]) -> Way:
        sizes, classes = zip(*(send(number) for number in range(len(self._images))), strict=True)
        size_N, class_N = np.array(sizes), np.array(classes)
        sent_N = self._answer_N < 0
        system_N = np.where(sent_N, class_N, self._answer_N)
        return Way(
            name,
            float(size_N.mean()),
            float(size_N[sent_N].mean()) if sent_N.any() else 0.0,
            float((class_N == self._truth_N).mean()),
            float((system_N == self._truth_N).mean()),
        )


def _page(bundle: str, data: str, count: int, ways: Sequence[Way]) -> str:
    rows = [
        "| sent as | bytes of all photos | of offloaded ones | full network | system |",
        "| --- " * 5 + "|",
    ]
    rows += [
        f"| {way.name} | {way.all_bytes:,.0f} | {way.offload_bytes:,.0f} | {way.full_accuracy:.2%} | "
        f"{way.system_accuracy:.2%} |"
        for way in ways
    ]
    parts = [
        f"# What could be sent for {bundle}",
        f"Made by `python -m benchmarks.rates`; {count} test photos of {data}. *Full network*: all photos are sent, "
        "and the last exit answers. *System*: at the default operating point, only what no exit of the edge answers is "
        "sent. Features are those at the split; at a number of bits they are rounded for each photo and channel, with "
        "the entropy of their levels as size. Without framing.",
        "\n".join(rows),
    ]
    return "\n\n".join(parts) + "\n"


def _plot(ways: Sequence[Way], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    kinds = dict.fromkeys(_kind(way.name) for way in ways)
    for kind in kinds:
        of_kind = sorted((way for way in ways if _kind(way.name) == kind), key=lambda way: way.all_bytes)
        axes.plot(
            [way.all_bytes for way in of_kind],
            [100 * way.full_accuracy for way in of_kind],
            "*-" if kind == "feature" else "o-",
            color=colour_of(kind),
            label=kind,
            ms=11 if kind == "feature" else 5,
        )
    finish(figure, axes, path)


def _kind(name: str) -> str:
    return "feature" if name.startswith("feature") else name.rpartition(" q")[0] or name


if __name__ == "__main__":
    run_command(Rates, sys.argv[1:], program="python -m benchmarks.rates")
