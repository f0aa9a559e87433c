"""The benchmarks that hold one version of the project against another: what they run, record and notice."""

from __future__ import annotations

import math
import shutil
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.answers import Recording, Said, ask, compare, read_recording
from benchmarks.checkouts import Checkout
from benchmarks.shipped import drawn_photos
from offramp.errors import ConfigError
from tests.conftest import SAMPLES

SHIRT = Said(label="shirt", exit_number=2, exit_tier="cloud", confidence=0.1 + 0.2, degraded=False)


def recording(**answers: Said) -> Recording:
    return Recording(answers={"b-lenet-fashion, edge alone": answers})


def check_noticed(count: str, **change: Any) -> None:
    changed = SHIRT.model_copy(update=change)
    [found] = compare(recording(a=SHIRT, b=SHIRT), recording(a=SHIRT, b=changed)).values()
    counts = {name: getattr(found, name) for name in ("label", "exit", "confidence", "degraded")}
    assert counts == {name: 1 if name == count else 2 for name in counts}
    assert found.different == ("b",)


def test_a_changed_answer_is_noticed_whatever_changed() -> None:
    check_noticed("label", label="coat")
    check_noticed("exit", exit_number=1)
    check_noticed("exit", exit_tier="edge")
    check_noticed("confidence", confidence=math.nextafter(SHIRT.confidence, 1.0))
    check_noticed("degraded", degraded=True)


def test_a_recording_keeps_the_last_bit_of_a_confidence(tmp_path: Path) -> None:
    written = recording(a=SHIRT, b=SHIRT.model_copy(update={"confidence": math.nextafter(1.0, 0.0)}))
    (tmp_path / "before.json").write_text(written.model_dump_json())
    [found] = compare(read_recording(tmp_path / "before.json"), written).values()
    assert found.confidence == found.photos == 2 and found.different == ()


def test_answers_to_different_photos_are_not_compared() -> None:
    with pytest.raises(ConfigError, match="different photos"):
        compare(recording(a=SHIRT), recording(b=SHIRT))


def test_what_is_no_recording_is_refused(tmp_path: Path) -> None:
    for text in ("{}", "[", '{"answers": {"x": {"a": {"label": "coat"}}}}'):
        (tmp_path / "before.json").write_text(text)
        with pytest.raises(ConfigError, match="is not a recording"):
            read_recording(tmp_path / "before.json")


def test_a_real_edge_is_recorded_whatever_its_caller_has_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, foreign = tmp_path / "photos", tmp_path / "edge_node"
    photos.mkdir()
    foreign.mkdir()
    for label in ("bag", "sandal"):
        shutil.copy(min((SAMPLES / label).iterdir()), photos / f"{label}.png")
    (foreign / "__init__.py").write_text("raise SystemExit('not the code of the checkout')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("EDGE_UPSTREAM", "127.0.0.1:1")
    checkout = Checkout()
    checkout.check()
    with checkout.serving("b-lenet-fashion", with_cloud=False) as url:
        found = ask(url, photos)
    assert {name: said.label for name, said in found.items()} == {"bag.png": "bag", "sandal.png": "sandal"}
    assert all(said.exit_tier == "edge" and not said.degraded for said in found.values())


def test_an_interpreter_that_runs_another_checkout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="an environment in which that checkout is installed"):
        Checkout(tmp_path, Path(sys.executable)).check()
    with pytest.raises(ConfigError, match="not a file"):
        Checkout(tmp_path, tmp_path / "python").check()


def test_photos_are_drawn_evenly_and_without_loss(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (10, 4, 4), dtype=np.uint8)
    header = b"\0\0\x08\x03" + struct.pack(">3I", *pixels.shape)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
    with drawn_photos(tmp_path, 5) as folder:
        drawn = [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]
    np.testing.assert_array_equal(drawn, pixels[::2])
