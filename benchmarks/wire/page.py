"""The findings as a page in Markdown, and as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.wire.photos import PhotoPoint
from benchmarks.wire.socket import SocketCount
from benchmarks.wire.timing import CodingTime
from offramp.authoring.evaluation.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DDNN_BYTES = 140  # Teerapittayanon et al. 2017: at most so many per sample and device
_COMMON = "WebP q75"


@dataclass(frozen=True)
class Findings:
    """All that was measured.

    photos: every codec on `few` photos; narrow_few: the bundle on the same ones. narrow, wide: with and without the
    bottleneck, on the whole test part, each at its default operating point.
    """

    photos: Sequence[PhotoPoint]
    few: int
    narrow_few: Report
    narrow: Report
    wide: Report
    socket: SocketCount
    coding: CodingTime


def page_of(found: Findings, data: str) -> str:
    """The findings, in words and tables."""
    return (
        f"# What {found.narrow.bundle.rpartition('-')[0]} sends\n\n"
        f"Made by `python -m benchmarks.wire`; test part of {data}.\n\n"
        f"## Photo or feature\n\n{_photo_or_feature(found)}\n\n"
        f"## Per request\n\n{_per_request(found.narrow, found.wide)}\n\n{_against_photos(found)}\n\n"
        f"## On the socket\n\n{_on_the_socket(found.socket)}\n\n"
        f"## The cost of encoding\n\n{_cost_of_encoding(found.coding)}\n"
    )


def _photo_or_feature(found: Findings) -> str:
    ours = found.narrow_few
    assert ours.payload_bytes_mean
    rows = [
        (point.codec, f"{point.bytes_mean:.0f}", f"{point.accuracy:.2%}")
        for point in sorted(found.photos, key=lambda point: -point.bytes_mean)
    ]
    rows.append(("**our feature**", f"**{ours.payload_bytes_mean:.0f}**", f"**{ours.full_accuracy:.2%}**"))
    table = "".join(
        f"| {' | '.join(row)} |\n" for row in (("sent as", "bytes", "accuracy"), ("---",) * 3, *rows)
    )
    better = [
        point.codec
        for point in found.photos
        if point.bytes_mean < ours.payload_bytes_mean and point.accuracy > ours.full_accuracy
    ]
    verdict = (
        f"Fewer bytes and a higher accuracy: {', '.join(better)}."
        if better
        else "No codec has both fewer bytes and a higher accuracy."
    )
    return f"Accuracy of the full network, without early exits, on {found.few} test photos:\n\n{table}\n{verdict}"


def _per_request(narrow: Report, wide: Report) -> str:
    assert narrow.payload_bytes_mean and narrow.offload_bytes_mean and narrow.request_bytes_mean
    assert wide.payload_bytes_mean
    return (
        f"| | bottleneck, {narrow.operating_point} | float32, {wide.operating_point} |\n| --- | --- | --- |\n"
        f"| accuracy with early exits | {narrow.accuracy:.2%} | {wide.accuracy:.2%} |\n"
        f"| accuracy if all go to the last exit | {narrow.full_accuracy:.2%} | {wide.full_accuracy:.2%} |\n"
        f"| offloaded | {narrow.offload_rate:.1%} | {wide.offload_rate:.1%} |\n"
        f"| bytes of an offloaded feature | {narrow.payload_bytes_mean:.1f} | {wide.payload_bytes_mean:.0f} |\n"
        f"| socket bytes, with framing | {narrow.offload_bytes_mean:.1f} | {wide.offload_bytes_mean or 0:.0f} |\n"
        f"| bytes per request | {narrow.request_bytes_mean:.1f} | {wide.request_bytes_mean or 0:.0f} |"
    )


def _against_photos(found: Findings) -> str:
    ours = found.narrow.request_bytes_mean
    assert ours
    raw, common = (
        next(point.bytes_mean for point in found.photos if point.codec == codec) for codec in ("raw", _COMMON)
    )
    return (
        f"Bytes per request: {raw / ours:.0f}× fewer than sending every photo raw ({raw:.0f}), "
        f"{common / ours:.1f}× fewer than sending every photo as {_COMMON} ({common:.0f}), "
        f"{_DDNN_BYTES / ours:.1f}× fewer than DDNN's {_DDNN_BYTES}."
    )


def _on_the_socket(count: SocketCount) -> str:
    return (
        f"{count.samples} photos were sent one by one, and none left early. Each took "
        f"{count.up_bytes:.1f} bytes up and {count.down_bytes:.1f} down. The edge counts "
        f"{count.accounted_bytes:.1f} bytes up ({count.off_by:.1%} off)."
    )


def _cost_of_encoding(coding: CodingTime) -> str:
    return (
        f"The edge computes for {coding.edge:.1f} µs. The bottleneck changes that by {coding.narrowing:+.1f} µs "
        f"before and {coding.widening:+.1f} µs after the split. The entropy coder takes {coding.encoding:.1f} µs "
        f"to encode and {coding.decoding:.1f} µs to decode. Together this is {coding.share:.1%} of the edge's "
        "computing. One thread, medians."
    )


_COLOURS = {
    "JPEG": "#e9a03b",
    "WebP": "#577590",
    "AVIF": "#4f9d69",
    "JPEG XL": "#b5179e",
    "PNG": "#8d6a9f",
    "raw": "#9aa5b1",
}


def colour_of(kind: str) -> str:
    """The colour of a codec in plots; red for our own."""
    return _COLOURS.get(kind, "#c8553d")


def _kind_of(codec: str) -> str:
    return max((kind for kind in _COLOURS if codec.startswith(kind)), key=len)


def plot_of(found: Findings, path: Path) -> None:
    """Bytes against accuracy."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.8), layout="constrained")
    axes = figure.subplots()
    for kind, colour in _COLOURS.items():
        of_kind = sorted((p for p in found.photos if _kind_of(p.codec) == kind), key=lambda p: p.bytes_mean)
        label = f"photo, {kind}"
        axes.plot(
            [p.bytes_mean for p in of_kind],
            [100 * p.accuracy for p in of_kind],
            "o-",
            color=colour,
            label=label,
        )
        for point in of_kind:
            if "q" in point.codec:
                at = (point.bytes_mean, 100 * point.accuracy)
                axes.annotate(
                    point.codec.split()[-1], at, xytext=(3, -9), textcoords="offset points", fontsize=7
                )
    ours = found.narrow_few
    axes.plot(
        [ours.payload_bytes_mean or 0.0],
        [100 * ours.full_accuracy],
        "*",
        color="#c8553d",
        ms=16,
        label="our feature",
    )
    finish(figure, axes, path)


def finish(figure: Figure, axes: Axes, path: Path) -> None:
    """Name the axes of a plot of bytes against accuracy, and write it."""
    axes.set_xscale("log")
    axes.set_xlabel("bytes of what is sent")
    axes.set_ylabel("full network right, %")
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
