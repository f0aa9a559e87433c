"""Evaluation: certainty of figures, quality of confidences, overthinking, rivals."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from offramp.authoring.evaluation.measures import PLAIN
from offramp.authoring.evaluation.overthinking import overthinking
from offramp.authoring.evaluation.promise import Overshoot, overshoot_of
from offramp.authoring.evaluation.statistics import auroc, calibration_error, mcnemar, wilson_interval
from offramp.authoring.evaluation.table import ExitTable
from offramp.authoring.networks.confidence import head_inputs
from offramp.bundle import load_bundle, write_manifest
from offramp.bundle.manifest import manifest_of
from tests.commands import offramp
from tests.conftest import FASHION_BUNDLE, ROOT, SAMPLES


def floats(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def right(text: str) -> np.ndarray:
    return np.array([letter == "r" for letter in text])


def test_the_interval_of_a_share_is_that_of_the_textbook() -> None:
    # Newcombe 1998, table I: 81 of 263, and 0 of 20.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    # By Wilson's formula with z = 1.959964, which is rounded: 10,000 and 500 photos.
    assert wilson_interval(9321, 10_000) == pytest.approx((0.9270014653404794, 0.9368666832623489), abs=1e-9)
    assert wilson_interval(457, 500) == pytest.approx((0.8861601882556522, 0.9355268577433504), abs=1e-9)
    assert wilson_interval(20, 20)[1] == 1


def test_mcnemar_counts_only_where_the_two_differ() -> None:
    found = mcnemar(right("rrrrrwww"), right("rrwwwwwr"))
    assert (found.only_first, found.only_second) == (3, 1)
    assert found.p_value == pytest.approx(2 * (1 + 4) / 16)


@pytest.mark.parametrize(
    ("only_first", "only_second", "summed_up"),
    [(11, 17, 0.34492845088243185), (120, 161, 0.01686929634014263), (5000, 5100, 0.32458154632961506)],
)
def test_mcnemar_is_the_sum_of_the_binomial_tail(only_first: int, only_second: int, summed_up: float) -> None:
    first = right("r" * only_first + "w" * only_second)
    assert mcnemar(first, ~first).p_value == pytest.approx(summed_up, abs=1e-9)


def test_two_that_never_differ_are_no_evidence() -> None:
    assert mcnemar(right("rrw"), right("rrw")).p_value == 1


def test_ten_to_nothing_is_no_accident() -> None:
    assert mcnemar(right("r" * 10), right("w" * 10)).p_value == pytest.approx(2 / 2**10)


def test_a_confidence_that_ranks_all_right_answers_first_has_auroc_1() -> None:
    assert auroc(floats(0.9, 0.8, 0.3, 0.2), right("rrww")) == 1
    assert auroc(floats(0.9, 0.8, 0.3, 0.2), right("wwrr")) == 0


def test_equal_confidences_count_half() -> None:
    assert auroc(floats(0.5, 0.5, 0.5), right("rwr")) == 0.5
    assert auroc(floats(0.9, 0.5, 0.5), right("rrw")) == 0.75


def test_without_a_wrong_answer_nothing_can_be_ranked() -> None:
    assert auroc(floats(0.9, 0.8), right("rr")) is None


def test_the_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    assert calibration_error(floats(0.75, 0.75, 0.75, 0.75), right("rrrw")) == pytest.approx(0)
    # Two bins: 0.9 said and half right, 0.1 said and none right.
    assert calibration_error(floats(0.9, 0.9, 0.1), right("rww")) == pytest.approx((2 * 0.4 + 0.1) / 3)


def test_the_measures_are_those_that_serve() -> None:
    logits_NK = torch.randn(200, 10, generator=torch.Generator().manual_seed(0)) * 6
    probabilities_NK = logits_NK.softmax(dim=1).numpy()
    ours = np.stack([of(probabilities_NK) for of in PLAIN.values()], axis=1)
    np.testing.assert_allclose(ours, head_inputs("learned", logits_NK).numpy(), atol=1e-5)


def test_the_measures_of_every_exit_are_ranked() -> None:
    measures = evaluated()["measures"]
    assert isinstance(measures, list)
    assert [(one["exit"], one["measure"]) for one in measures if one["exported"]] == [
        (1, "max_softmax"),
        (2, "max_softmax"),
    ]
    for exit in (1, 2):
        found = [one["auroc"] for one in measures if one["exit"] == exit]
        assert len(found) == 3 and found == sorted(found, reverse=True)


def test_overthinking_counts_what_depth_destroys_and_what_is_won_back() -> None:
    correct = np.array([[1, 0], [1, 0], [0, 1], [0, 0], [1, 1]], dtype=bool)
    confidence = np.array([[0.9, 0.9], [0.1, 0.9], [0.9, 0.9], [0.1, 0.9], [0.9, 0.9]], dtype=np.float32)
    found = overthinking(ExitTable(confidence, correct), (0.5,), (10, 30))
    assert found.destroyed == pytest.approx(2 / 5)
    assert found.won_back == pytest.approx(1 / 5)
    assert found.spoilt == pytest.approx(1 / 5)
    assert found.oracle_accuracy == pytest.approx(4 / 5)
    assert found.oracle_macs_mean == pytest.approx((10 + 10 + 30 + 30 + 10) / 5)


def evaluated(*options: str) -> dict[str, object]:
    result = offramp("evaluate", str(FASHION_BUNDLE), "--data", str(SAMPLES), "--json", *options)
    assert result.exit_code == 0, result.output
    found: dict[str, object] = json.loads(result.stdout)
    return found


def test_what_an_operating_point_wins_is_what_it_wins_back_less_what_it_spoils() -> None:
    found = evaluated()
    lost = found["overthinking"]
    assert isinstance(lost, dict)
    assert found["accuracy"] == pytest.approx(found["full_accuracy"] + lost["won_back"] - lost["spoilt"])


def test_leaving_early_takes_less_time() -> None:
    exits = evaluated()["exits"]
    assert isinstance(exits, list)
    assert 0 < exits[0]["ms"] < exits[1]["ms"]


def test_a_bundle_is_its_own_equal_where_all_go_to_the_end() -> None:
    rivals = evaluated("--thetas", "1", "--rival", str(FASHION_BUNDLE))["rivals"]
    assert isinstance(rivals, list)
    rival = rivals[0]
    assert (rival["only_right_here"], rival["only_right_there"], rival["mcnemar_p"]) == (0, 0, 1)


def test_a_rival_sees_the_photos_in_its_own_way(tmp_path: Path) -> None:
    manifest = load_bundle(FASHION_BUNDLE).manifest
    parts = dict(manifest)
    del parts["format_version"], parts["bundle_id"]
    parts["preprocessing"] = manifest.preprocessing.model_copy(
        update={"resize_to": (40, 40)}
    )  # then a crop of 28
    shutil.copytree(FASHION_BUNDLE, tmp_path / "rival")
    write_manifest(tmp_path / "rival", manifest_of(**parts))
    rivals = evaluated("--thetas", "1", "--rival", str(tmp_path / "rival"))["rivals"]
    assert isinstance(rivals, list)
    assert rivals[0]["only_right_here"] > 0


def test_a_rival_for_another_task_is_refused() -> None:
    rival = ROOT / "models" / "b-alexnet-cifar10"
    result = offramp("evaluate", str(FASHION_BUNDLE), "--data", str(SAMPLES), "--rival", str(rival))
    assert result.exit_code == 2
    assert "has other classes" in result.stderr


def test_the_tables_say_how_sure_the_figures_are(tmp_path: Path) -> None:
    result = offramp("evaluate", str(FASHION_BUNDLE), "--data", str(SAMPLES), "--rival", str(FASHION_BUNDLE))
    for text in ("AUROC", "destroyed by depth", "an oracle", "McNemar"):
        assert text in result.output


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    pytest.importorskip("matplotlib", reason="pages need the extra `report`")
    path = tmp_path_factory.mktemp("page") / "report.html"
    evaluated("--page", str(path), "--rival", str(FASHION_BUNDLE))
    return path.read_text()


class TestPage:
    def test_it_needs_nothing_from_elsewhere(self, page: str) -> None:
        asked_for = re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?([^\"'\s)>]+)", page)
        assert all(source.startswith(("data:", "#")) for source in asked_for)
        assert "<script" not in page

    def test_it_shows_the_figures_that_json_has(self, page: str) -> None:
        found = evaluated()
        for share in (found["accuracy"], found["full_accuracy"]):
            assert isinstance(share, float)
            assert f"{100 * share:.2f} %" in page
        assert page.count("<svg") == 1 + 2 + 1  # the trade-off, each exit's reliability, the confusion matrix

    def test_it_shows_the_photos_that_leave_first_and_last(self, page: str) -> None:
        assert page.count("data:image/png;base64,") == 48
        assert "exit 1, 1.00" in page and "<span>said</span> <b>trouser</b>" in page

    def test_a_page_that_cannot_be_written_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "nowhere" / "report.html"
        options = ["evaluate", str(FASHION_BUNDLE), "--data", str(SAMPLES), "--page", str(path)]
        result = offramp(*options)
        assert result.exit_code == 2
        assert f"{path} cannot be written" in result.stderr


def overshoot(point: str, lost: int, of: int = 1000) -> Overshoot | None:
    """A point that is wrong for `lost` samples that the full network gets right, and sends 100 bytes each time."""
    right_N = np.arange(of) >= lost
    return overshoot_of(
        point, right_N=right_N, full_right_N=np.ones(of, bool), spent_N={"bytes": np.full(of, 100.0)}
    )


def test_a_limit_that_is_kept_says_nothing() -> None:
    assert overshoot("drop-0.5", 5) is None
    assert overshoot("bytes-100", 0) is None
    assert overshoot("full", 500) is None


def test_a_limit_that_is_not_kept_is_told_with_whether_chance_explains_it() -> None:
    slightly, far = overshoot("drop-0.5", 8), overshoot("drop-0.5", 60)
    assert slightly and far
    assert (slightly.is_beyond_chance, far.is_beyond_chance) == (False, True)
    assert "0.80 points less accurate" in slightly.meaning and "--guarantee" in slightly.meaning
    assert "calibrate on photos like these" in far.meaning
    sent = overshoot("bytes-99.5", 0)
    assert sent and sent.meaning.startswith("'bytes-99.5' is 100.0 bytes a request on these samples")
