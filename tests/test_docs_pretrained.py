"""The page about a pretrained network: its commands, run one after another on a small part."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image

from offramp.authoring.networks import efficientnet_lite
from offramp.bundle import load_bundle
from tests.commands import offramp
from tests.conftest import ROOT
from tests.test_docs import text_of
from tests.test_docs_examples import blocks

PAGE = ROOT / "docs" / "pretrained.md"
# The page's network, on fewer pixels.
SMALL = efficientnet_lite.PREPROCESSING.model_copy(update={"height": 64, "width": 64, "resize_to": 72})
CLASSES = ("Banana", "Milk", "Tomato")
COMMANDS = ["attach", "train", "export", "calibrate", "evaluate", "up"]


def commands() -> list[list[str]]:
    """The words of each command of the page's second block."""
    code = next(code for page, code in blocks("console") if page == PAGE and "offramp attach" in code)
    return [
        shlex.split(line)[2:]
        for line in code.replace("\\\n", "").splitlines()
        if line.startswith("$ offramp")
    ]


def some_photos(directory: Path) -> Path:
    """A few of the shipped photos, each several times with another brightness."""
    for part, count in (("train", 12), ("test", 3)):
        for label in CLASSES:
            source = Image.open(next((ROOT / "samples" / "grocery" / label).glob("*.jpg")))
            (directory / part / label).mkdir(parents=True)
            for number in range(count):
                changed = source.resize((96, 96)).point(lambda level, n=number: level * (20 + n) // 32)
                changed.save(directory / part / label / f"{number}.jpg")
    return directory


def weights() -> dict[str, torch.Tensor]:
    """Random, but so large that the features of different photos differ, as those of trained ones do."""
    torch.manual_seed(0)
    network = efficientnet_lite.efficientnet_lite0()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    return network.state_dict()


def test_the_page_needs_six_commands() -> None:
    assert [words[0] for words in commands()] == COMMANDS
    assert text_of(PAGE)


def test_its_commands_make_a_bundle_that_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(weights(), "lite0.pth")
    places = {
        "grocery.zip": str(some_photos(tmp_path / "photos")),
        "offramp.authoring.networks.efficientnet_lite:PREPROCESSING_BILINEAR": "tests.test_docs_pretrained:SMALL",
    }
    for words in commands()[:-1]:
        if "--guarantee" in words:  # so few photos can't certify anything
            words = words[: words.index("--guarantee")]
        typed = [places.get(word, word) for word in words]
        result = offramp(*typed, *(["--epochs", "1"] if words[0] == "train" else []))
        assert not result.exit_code, f"{words}: {result.output}"
    manifest = load_bundle(tmp_path / "bundles" / "lite0").manifest
    assert manifest.labels == CLASSES
    assert {"full", "cost-0.45"} <= {point.name for point in manifest.operating_points}
    assert "9 images" in result.output
