"""The `offramp` command as a person types it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from offramp.bundle import load_bundle
from tests.commands import SMALL, Result, check_refused, offramp, trained_on_noise
from tests.conftest import FASHION_BUNDLE, SAMPLES


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_on_noise(tmp_path_factory.mktemp("made"))


def test_an_exit_learns_from_a_backbone_without_any_label(trained: Path, tmp_path: Path) -> None:
    photos, run, bundle = trained / "photos" / "train", tmp_path / "run", tmp_path / "bundle"
    teach = ("--regime", "distill", "--start", trained / "run", "--unlabelled")
    result = offramp(
        "train", "b-lenet-fashion", "--data", photos, "--out", run, *SMALL, *teach, "--alpha", "1"
    )
    assert result.exit_code == 0, result.output
    assert offramp("export", run, "--out", bundle).exit_code == 0
    assert offramp("calibrate", bundle, "--data", photos, "--guarantee", "0.2").exit_code == 0
    manifest = load_bundle(bundle).manifest
    assert manifest.operating_point.certificate is not None
    full = next(point for point in manifest.operating_points if point.thetas == (1.0,))
    assert full.measured is not None
    assert full.measured.accuracy == 1, "agreement with itself"


def test_the_backbone_alone_is_a_bundle_of_one_block(trained: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    assert offramp("export", trained / "run", "--out", alone, "--static").exit_code == 0
    manifest, whole = load_bundle(alone).manifest, load_bundle(trained / "bundle").manifest
    assert (len(manifest.blocks), manifest.num_exits) == (1, 1)
    assert manifest.exit_macs == (whole.backbone_macs,)
    result = offramp("evaluate", trained / "bundle", "--data", trained / "photos", "--part", "validation")
    assert result.exit_code == 0, result.output
    result = offramp("evaluate", alone, "--data", trained / "photos", "--part", "validation")
    assert result.exit_code == 0, result.output


def test_temperatures_are_fitted_on_the_samples_that_training_never_saw(
    trained: Path, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    result = offramp("export", trained / "run", "--out", out, "--fit-on", trained / "photos")
    assert result.exit_code == 0, result.output
    found = [exit.temperature for exit in load_bundle(out).manifest.exits]
    assert len(found) == 2 and 1.0 not in found
    result = offramp("export", trained / "run", "--out", tmp_path / "other", "--fit-on", SAMPLES)
    check_refused(result, "is not the data this network was trained on")


def test_a_confidence_is_learned_on_the_samples_that_training_never_saw(
    trained: Path, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    learned = ("export", trained / "run", "--out", out, "--measure", "learned")
    check_refused(offramp(*learned), "--measure learned needs --fit-on DATA")
    result = offramp(*learned, "--fit-on", trained / "photos")
    assert result.exit_code == 0, result.output
    assert [exit.measure for exit in load_bundle(out).manifest.exits] == ["learned", "learned"]


def test_no_failures_are_predicted_where_none_was_seen(trained: Path, tmp_path: Path) -> None:
    export = ("export", trained / "run", "--out", tmp_path / "bundle", "--measure", "failure")
    result = offramp(*export, "--fit-on", trained / "photos")
    check_refused(result, "leaving at exit 1 costs nothing for any of 20 held-out samples")


def test_a_bundle_gets_guards_is_calibrated_and_says_how_many_are_unfamiliar(
    trained: Path, tmp_path: Path
) -> None:
    out, photos = tmp_path / "bundle", trained / "photos"
    guard = ("guard", trained / "bundle", "--data", photos, "--out", out)
    check_refused(
        offramp(*guard), "20 samples cannot set a limit for 1.00% false alarms", "hold out 198 or more"
    )
    result = offramp(*guard, "--false-alarms", "0.05")
    assert result.exit_code == 0, result.output
    assert offramp("calibrate", out, "--data", photos).exit_code == 0
    result = offramp("evaluate", out, "--data", photos, "--part", "validation", "--json")
    assert 0 <= json.loads(result.stdout)["unfamiliar_rate"] <= 0.25
    # A bag is neither of the two kinds of noise.
    assert "50 unfamiliar" in offramp("predict", out, SAMPLES / "bag").stderr


@pytest.mark.parametrize(("budget", "point"), [("--max-ms", "ms-1000"), ("--max-bytes", "bytes-1000")])
def test_a_budget_of_time_or_of_bytes_names_the_point_that_keeps_it(
    trained: Path, tmp_path: Path, budget: str, point: str
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(trained / "bundle", bundle)
    result = offramp("calibrate", bundle, "--data", trained / "photos", budget, "1000")
    assert result.exit_code == 0, result.output
    assert load_bundle(bundle).manifest.default_operating_point == point


def test_calibration_takes_its_milliseconds_from_a_profile(trained: Path, tmp_path: Path) -> None:
    bundle, file = tmp_path / "bundle", tmp_path / "profile.json"
    shutil.copytree(trained / "bundle", bundle)
    profile = json.loads(offramp("profile", bundle, "--runtime", "onnx", "--rounds", "2", "--json").stdout)
    for time in profile["blocks"]:
        time["ms"] = 1000.0
    file.write_text(json.dumps(profile))
    result = offramp("calibrate", bundle, "--data", trained / "photos", "--max-ms", "1000", "--profile", file)
    assert result.exit_code == 0, result.output
    points = {point.name: point.measured for point in load_bundle(bundle).manifest.operating_points}
    cheapest = points["ms-1000"]
    assert cheapest is not None and cheapest.ms_mean == 1000, "every sample leaves at exit 1, after one block"


def test_photos_without_labels_need_a_teacher(trained: Path, tmp_path: Path) -> None:
    photos = trained / "photos"
    result = offramp(
        "train", "b-lenet-fashion", "--data", photos, "--out", tmp_path / "r", *SMALL, "--unlabelled"
    )
    check_refused(result, "--regime distill --alpha 1 --start RUN")


def train_again(trained: Path, *options: str) -> Result:
    data, run = trained / "photos", trained / "run"
    return offramp("train", "b-lenet-fashion", "--data", data, "--out", run, *SMALL, *options)


@pytest.mark.training
class TestFromPhotosToABundle:
    def test_the_three_commands_make_a_bundle_that_tells_how_it_was_made(self, trained: Path) -> None:
        manifest = load_bundle(trained / "bundle").manifest
        assert manifest.labels == ("dark", "light")
        assert manifest.provenance is not None and len(manifest.provenance.commands) == 3
        assert manifest.default_operating_point == "drop-0.5"

    def test_a_run_is_not_overwritten(self, trained: Path) -> None:
        check_refused(train_again(trained), "already has a run", "--resume")

    def test_a_finished_run_resumes_to_nothing_more_to_do(self, trained: Path) -> None:
        assert train_again(trained, "--resume").exit_code == 0

    def test_a_run_is_not_resumed_with_other_settings(self, trained: Path) -> None:
        check_refused(train_again(trained, "--resume", "--seed", "1"), "other settings")

    @pytest.mark.parametrize("weights", ["1", "1,2,3", "-1,1", "nan,1", "a,b", "0,0"])
    def test_weights_that_do_not_fit_are_refused(self, trained: Path, weights: str) -> None:
        check_refused(train_again(trained, f"--exit-weights={weights}"), "--exit-weights", "1,1")

    def test_a_bundle_is_not_overwritten(self, trained: Path) -> None:
        check_refused(offramp("export", trained / "run", "--out", trained / "bundle"), "not empty")

    def test_other_data_than_it_was_trained_on_is_refused(self, trained: Path) -> None:
        check_refused(offramp("calibrate", trained / "bundle", "--data", SAMPLES), "not the data")

    def test_what_it_was_trained_on_is_no_test(self, trained: Path) -> None:
        result = offramp("evaluate", trained / "bundle", "--data", trained / "photos" / "train")
        check_refused(result, "trained on", "--part validation")

    def test_the_held_out_part_can_be_evaluated(self, trained: Path) -> None:
        arguments = (
            "evaluate",
            trained / "bundle",
            "--data",
            trained / "photos",
            "--part",
            "validation",
            "--json",
        )
        assert json.loads(offramp(*arguments).stdout)["samples"] == 40

    def test_a_budget_of_cost_is_kept(self, trained: Path) -> None:
        result = offramp("calibrate", trained / "bundle", "--data", trained / "photos", "--max-cost", "0.5")
        assert result.exit_code == 0, result.output
        manifest = load_bundle(trained / "bundle").manifest
        assert manifest.default_operating_point == "cost-0.5"
        measured = manifest.operating_point.measured
        assert measured is not None and measured.macs_mean <= 0.5 * manifest.backbone_macs

    def test_a_budget_nobody_can_keep_says_what_is_possible(self, trained: Path) -> None:
        result = offramp("calibrate", trained / "bundle", "--data", trained / "photos", "--max-cost", "0.01")
        check_refused(result, "the least these exits cost")

    def test_a_guarantee_leaves_the_limit_that_was_asked_for_the_default(self, trained: Path) -> None:
        guarantee = ("--guarantee", "0.2", "--delta", "0.2", "--max-drop", "1")
        result = offramp("calibrate", trained / "bundle", "--data", trained / "photos", *guarantee)
        assert result.exit_code == 0, result.output
        manifest = load_bundle(trained / "bundle").manifest
        assert manifest.default_operating_point == "drop-1"
        assert manifest.point_named("disagreement-0.2").certificate is not None
        spent = [point.measured.ms_mean for point in manifest.operating_points if point.measured]
        assert len(spent) == len(manifest.operating_points) and all(spent)

    def test_a_guarantee_is_certified(self, trained: Path) -> None:
        arguments = ("calibrate", trained / "bundle", "--data", trained / "photos", "--guarantee")
        assert offramp(*arguments, "0.2", "--delta", "0.2", "--risk", "harm").exit_code == 0
        point = load_bundle(trained / "bundle").manifest.operating_point
        assert point.name == "harm-0.2" and point.certificate is not None
        assert point.certificate.samples == 20 and point.certificate.p_value <= 0.2

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            (["--guarantee", "0.001"], "hold out at least"),
            (["--guarantee", "2"], "--guarantee is '2'"),
            (["--guarantee", "0.1", "--delta", "0"], "--delta is '0'"),
            (["--guarantee", "0.1", "--risk", "luck"], "--risk is 'luck'"),
        ],
    )
    def test_a_guarantee_nobody_can_give_is_refused(
        self, trained: Path, options: list[str], says: str
    ) -> None:
        check_refused(offramp("calibrate", trained / "bundle", "--data", trained / "photos", *options), says)

    def test_two_budgets_at_once_are_refused(self, trained: Path) -> None:
        budgets = ("--max-cost", "0.5", "--max-drop", "1")
        check_refused(
            offramp("calibrate", trained / "bundle", "--data", trained / "photos", *budgets),
            "cannot be combined",
        )


class TestEvaluate:
    def test_json_is_one_object_with_all_that_is_promised(self) -> None:
        result = offramp("evaluate", FASHION_BUNDLE, "--data", SAMPLES, "--json")
        report = json.loads(result.stdout)
        assert {"samples", "accuracy", "macs_mean", "macs_backbone", "exits"} <= set(report)
        assert report["samples"] == 500
        for exit in report["exits"]:
            assert {"number", "tier", "accuracy", "rate", "macs"} <= set(exit)

    def test_totals_follow_from_the_exits(self) -> None:
        report = json.loads(offramp("evaluate", FASHION_BUNDLE, "--data", SAMPLES, "--json").stdout)
        exits = report["exits"]
        assert sum(exit["rate"] for exit in exits) == pytest.approx(1)
        assert sum(exit["rate"] * exit["macs"] for exit in exits) == pytest.approx(report["macs_mean"])
        right = sum(exit["rate"] * (exit["accuracy_left"] or 0) for exit in exits)
        assert right == pytest.approx(report["accuracy"])

    @pytest.mark.parametrize(("theta", "rates"), [("0", [1.0, 0.0]), ("1", [0.0, 1.0])])
    def test_theta_0_leaves_at_the_first_exit_and_theta_1_never_early(
        self, theta: str, rates: list[float]
    ) -> None:
        result = offramp("evaluate", FASHION_BUNDLE, "--data", SAMPLES, "--thetas", theta, "--json")
        assert [exit["rate"] for exit in json.loads(result.stdout)["exits"]] == rates

    def test_the_table_is_for_people(self) -> None:
        result = offramp("evaluate", FASHION_BUNDLE, "--data", SAMPLES, "--limit", "20")
        assert "20 images" in result.stdout and "x less work than the backbone" in result.stdout

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["--data", "nowhere"], "nowhere does not exist"),
            (["--data", SAMPLES, "--thetas", "1.5"], "theta of exit 1 is 1.5"),
            (["--data", SAMPLES, "--thetas", "0.5,0.5"], "2 thetas"),
            (["--data", SAMPLES, "--thetas", "high"], "high"),
            (["--data", SAMPLES, "--point", "nowhere"], "no operating point 'nowhere'"),
            (["--data", SAMPLES, "--point", "full", "--thetas", "0.5"], "exclude each other"),
            (["--data", SAMPLES, "--part", "dev"], "part is 'dev'"),
            (["--data", SAMPLES, "--predictions", "/nowhere/x.csv"], "cannot be written"),
        ],
    )
    def test_what_does_not_fit_is_one_clear_line(self, arguments: list[str | Path], says: str) -> None:
        check_refused(offramp("evaluate", FASHION_BUNDLE, *arguments), says)


def test_every_command_has_help_with_an_example() -> None:
    listed = re.findall(r"^  ([a-z]+)  ", offramp("--help").stdout, re.MULTILINE)
    assert {"train", "calibrate", "export", "evaluate", "predict", "edge", "cloud", "up"} <= set(listed)
    for command in listed:
        assert f"Example: offramp {command}" in offramp(command, "--help").stdout


def test_an_unknown_recipe_lists_those_there_are(tmp_path: Path) -> None:
    result = offramp("train", "b-vgg", "--data", SAMPLES, "--out", tmp_path)
    check_refused(result, "no recipe 'b-vgg'", "b-lenet-mnist")
