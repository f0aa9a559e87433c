"""Served equals evaluated: the shipped bundles over HTTP and gRPC decide bit for bit as `offramp evaluate`."""

from __future__ import annotations

import asyncio
import csv
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from offramp.authoring.data import LabelledImages, load_images
from offramp.bundle import load_bundle
from tests.commands import offramp
from tests.conftest import FASHION_BUNDLE, ROOT, SAMPLES
from tests.nodes import predict, running_cloud, running_edge

Decision = tuple[str, int, str]


def evaluated(bundle: Path, data: Path, limit: int, tmp_path: Path) -> tuple[list[str], list[Decision]]:
    """Names of the images, and (label, exit, confidence) of each, as the command says."""
    table = tmp_path / "predictions.csv"
    arguments = [
        "evaluate",
        str(bundle),
        "--data",
        str(data),
        "--limit",
        str(limit),
        "--predictions",
        str(table),
    ]
    result = offramp(*arguments)
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader(table.read_text().splitlines()))
    return [row["image"] for row in rows], [(r["label"], int(r["exit"]), r["confidence"]) for r in rows]


async def served(bundle: Path, photos: Sequence[bytes]) -> list[Decision]:
    loaded = load_bundle(bundle)
    split = loaded.manifest.operating_point.split_point
    last = len(loaded.manifest.blocks)
    async with (
        running_cloud(loaded, blocks=f"{split}-{last}") as cloud,
        running_edge(
            loaded, upstream=cloud, blocks=f"1-{split - 1}", log_level="WARNING", offload_timeout_s=20
        ) as client,
    ):
        gate = asyncio.Semaphore(8)

        async def ask(photo: bytes) -> Decision:
            async with gate:
                answer = await predict(client, photo)
            assert not answer["degraded"]
            return answer["label"], answer["exit"]["number"], f"{answer['confidence']:.9g}"

        return await asyncio.gather(*(ask(photo) for photo in photos))


def as_png(images: LabelledImages, source: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(images.pixels[images.sources.index(source)].squeeze()).save(file, "PNG")
    return file.getvalue()


async def test_the_shipped_photos(tmp_path: Path) -> None:
    names, expected = evaluated(FASHION_BUNDLE, SAMPLES, 500, tmp_path)
    found = await served(FASHION_BUNDLE, [(SAMPLES / name).read_bytes() for name in names])
    assert found == expected
    assert {exit for _, exit, _ in found} == {1, 2}, "some leave at the edge, some in the cloud"


async def test_a_thousand_fashion_mnist_test_photos(fashion_mnist: Path, tmp_path: Path) -> None:
    names, expected = evaluated(FASHION_BUNDLE, fashion_mnist, 1000, tmp_path)
    images = load_images(fashion_mnist, "test", load_bundle(FASHION_BUNDLE).manifest.preprocessing)
    assert await served(FASHION_BUNDLE, [as_png(images, name) for name in names]) == expected


async def test_a_thousand_cifar10_test_photos(cifar10: Path, tmp_path: Path) -> None:
    bundle = ROOT / "models" / "b-alexnet-cifar10"
    names, expected = evaluated(bundle, cifar10, 1000, tmp_path)
    with zipfile.ZipFile(cifar10) as archive:
        photos = [archive.read(f"test/{name}") for name in names]
    found = await served(bundle, photos)
    assert found == expected
    assert {exit for _, exit, _ in found} == {1, 2, 3}


@pytest.mark.parametrize(
    ("bundle", "data", "accuracy", "ratio"),
    [("b-lenet-mnist", "mnist", 0.992, 4.0), ("b-alexnet-cifar10", "cifar10", 0.84, 1.9)],
)
def test_a_shipped_bundle_is_as_good_as_claimed(
    bundle: str, data: str, accuracy: float, ratio: float, request: pytest.FixtureRequest
) -> None:
    from offramp.authoring.evaluation.report import Report

    path: Path = request.getfixturevalue(data)
    result = offramp("evaluate", str(ROOT / "models" / bundle), "--data", str(path), "--json")
    report = Report.model_validate_json(result.stdout)
    assert report.samples == 10_000
    assert report.accuracy >= accuracy and report.macs_ratio >= ratio
