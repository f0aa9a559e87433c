"""Photos of their own to choose thresholds on: named once, found again by every command, and compared with others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from offramp.authoring.evaluation.held_out import compare_held_out
from offramp.authoring.training.run import load_run
from offramp.bundle import load_bundle
from offramp.bundle.provenance import CalibrationPart, Data, Split
from offramp.cli.reading import Reading
from offramp.cli.training_data import Wanted, find_calibration, has_seen
from tests.commands import check_refused, offramp
from tests.conftest import FASHION_BUNDLE, SAMPLES
from tests.test_layouts import TINY, some, write

_TRAIN = ("train", "b-lenet-fashion", "--epochs", "1", "--out")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise of two kinds, with a training, a validation and a test part."""
    directory = tmp_path_factory.mktemp("made") / "photos"
    generator = np.random.default_rng(0)
    for part, count in {"train": 40, "validation": 15, "test": 10}.items():
        for label, brightness in (("dark", 90), ("light", 255)):
            (directory / part / label).mkdir(parents=True)
            for number in range(count):
                pixels = (generator.random((28, 28)) * brightness).astype(np.uint8)
                Image.fromarray(pixels).save(directory / part / label / f"{number:04d}.png")
    return directory


@pytest.fixture(scope="module")
def bundle(photos: Path) -> Path:
    """Trained on all of train/, since the data has a validation part."""
    run, bundle = photos.parent / "run", photos.parent / "bundle"
    result = offramp(*_TRAIN, run, "--data", photos)
    assert result.exit_code == 0, result.output
    assert "train/: 2 classes, 80 photos" in result.stderr
    assert "80 samples, 30 samples of photos/validation held out" in result.stderr
    result = offramp("export", run, "--out", bundle, "--fit-on", photos)
    assert result.exit_code == 0, result.output
    return bundle


@pytest.mark.training
class TestOwnPart:
    def test_training_uses_all_of_the_training_part(self, bundle: Path) -> None:
        provenance = load_bundle(bundle).manifest.provenance
        assert provenance is not None
        data = provenance.data
        assert data.split is None and data.calibration is not None
        assert (data.samples, data.trained_on) == (80, 80)
        assert (data.calibration.name, data.calibration.samples) == ("photos/validation", 30)

    @pytest.mark.parametrize("part", ["", "validation"])
    def test_calibration_finds_it_in_the_data_or_on_its_own(
        self, bundle: Path, photos: Path, part: str
    ) -> None:
        result = offramp("calibrate", bundle, "--data", photos / part)
        assert result.exit_code == 0, result.output
        measured = load_bundle(bundle).manifest.operating_point.measured
        assert measured is not None and measured.samples == 30

    @pytest.mark.parametrize(
        ("part", "says"),
        [("test", "'photos/validation' with 30 samples"), ("train", "'photos/validation' with 30 samples")],
    )
    def test_calibration_refuses_other_photos(self, bundle: Path, photos: Path, part: str, says: str) -> None:
        check_refused(offramp("calibrate", bundle, "--data", photos / part), says)

    def test_data_without_that_part_says_what_is_needed(self, bundle: Path, tmp_path: Path) -> None:
        data = write(tmp_path, [*some("train/dark", 1), *some("test/dark", 1)])
        result = offramp("calibrate", bundle, "--data", data)
        check_refused(result, "has test, train but no validation part", "'photos/validation' with 30 samples")

    def test_it_can_be_evaluated_but_is_no_test(self, bundle: Path, photos: Path) -> None:
        result = offramp("evaluate", bundle, "--data", photos, "--part", "validation", "--json")
        report = json.loads(result.stdout)
        assert report["samples"] == 30 and report["held_out"] is None
        result = offramp("evaluate", bundle, "--data", photos / "validation")
        check_refused(result, "has its thresholds from", "--part validation")

    def test_a_bottleneck_learns_with_it(self, bundle: Path, photos: Path, tmp_path: Path) -> None:
        narrow = ("compress", photos.parent / "run", "--data", photos, "--out", tmp_path / "narrow")
        result = offramp(*narrow, "--epochs", "1")
        assert bundle.exists() and result.exit_code == 0, result.output

    def test_photos_elsewhere_are_named_with_calibration(self, photos: Path, tmp_path: Path) -> None:
        data, other = photos / "train", photos / "test"
        result = offramp(*_TRAIN, tmp_path / "run", "--data", data, "--calibration", other)
        assert result.exit_code == 0, result.output
        part = load_run(tmp_path / "run").provenance.data.calibration
        assert part is not None and (part.name, part.samples) == ("test", 20)
        fitted = ("export", tmp_path / "run", "--out", tmp_path / "bundle", "--fit-on", data)
        check_refused(offramp(*fitted), "'test' with 20 samples")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--validation", "5"), "leave one of them out"),
        ((), "is what this run trains on"),
    ],
)
def test_a_calibration_part_that_cannot_be_meant_is_refused(
    photos: Path, tmp_path: Path, options: tuple[str, ...], says: str
) -> None:
    data = photos / "train"
    check_refused(offramp(*_TRAIN, tmp_path, "--data", data, "--calibration", data, *options), says)


@pytest.mark.parametrize(
    ("is_trained", "calibration", "warned"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_a_backbone_that_is_trained_already_may_have_seen_what_is_held_out(
    photos: Path, capsys: pytest.CaptureFixture[str], is_trained: bool, calibration: bool, warned: bool
) -> None:
    named = photos / "test" if calibration else None
    wanted = Wanted(photos / "train", named, None, unlabelled=False, reading=Reading())
    find_calibration(wanted, TINY, is_trained=is_trained)
    assert ("warning: the recipe's backbone is trained already" in capsys.readouterr().err) is warned


def test_data_has_either_a_split_or_a_part_for_calibration() -> None:
    part = CalibrationPart(name="p", samples=3, fingerprint="0" * 64)
    for both in ({"split": Split(seed=0, validation=3), "calibration": part}, {}):
        with pytest.raises(ValidationError, match="either a split or a part"):
            Data(name="d", samples=9, fingerprint="1" * 64, **both)


@pytest.mark.parametrize(
    ("start", "now", "seen"),
    [
        ((0, 500), (0, 500), False),
        ((0, 500), (0, 200), False),
        ((0, 200), (0, 500), True),
        ((1, 500), (0, 500), True),
        (None, (0, 500), True),
        ((0, 500), None, False),
    ],
)
def test_a_run_to_start_from_may_have_seen_what_is_held_out_now(
    start: tuple[int, int] | None, now: tuple[int, int] | None, seen: bool
) -> None:
    part = CalibrationPart(name="p", samples=3, fingerprint="0" * 64)
    one, other = (
        Data(
            name="d",
            samples=900,
            fingerprint="1" * 64,
            split=split and Split(seed=split[0], validation=split[1]),
            calibration=None if split else part,
        )
        for split in (start, now)
    )
    assert has_seen(one, other) is seen
    assert not has_seen(one.model_copy(update={"fingerprint": "2" * 64}), other)


def test_an_accuracy_that_chance_cannot_explain_is_a_warning(tmp_path: Path) -> None:
    folders = sorted(folder for folder in SAMPLES.iterdir() if folder.is_dir())
    for folder, other in zip(folders, folders[1:] + folders[:1], strict=True):
        (tmp_path / folder.name).symlink_to(other)
    result = offramp("evaluate", FASHION_BUNDLE, "--data", tmp_path, "--limit", "50", "--json")
    held_out = json.loads(result.stdout)["held_out"]
    assert held_out["is_beyond_chance"] and held_out["p"] < 1e-6
    assert "warning: " in result.stderr and "some training has seen those" in result.stderr


def test_an_accuracy_that_chance_explains_is_none(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = offramp("evaluate", FASHION_BUNDLE, "--data", SAMPLES, "--json", "--page", page)
    held_out = json.loads(result.stdout)["held_out"]
    assert held_out["samples"] == 500 and held_out["p"] > 0.01 and not held_out["is_beyond_chance"]
    assert "warning" not in result.stderr
    assert "chance explains the difference" in page.read_text(encoding="utf-8")


def test_the_comparison_is_with_the_full_network_if_thetas_are_given_by_hand() -> None:
    manifest = load_bundle(FASHION_BUNDLE).manifest
    full = manifest.point_named("full").measured
    assert full is not None
    found = compare_held_out(manifest, None, accuracy=0.1, full_accuracy=full.accuracy, samples=1000)
    assert found is not None and found.point == "full" and found.p > 0.5
