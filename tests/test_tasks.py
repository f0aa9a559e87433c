"""Several labels and a quantity, from a `labels.csv` to two nodes: one whole path for each task."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_node.schemas import Prediction
from offramp import load
from offramp.bundle import Bundle
from offramp_dashboard.schemas import Prediction as AsShown
from tests.commands import check_refused, offramp
from tests.conftest import with_thetas
from tests.nodes import predict, running_cloud, running_edge
from tests.task_data import BRIGHTNESS, made_bundle


@pytest.fixture(scope="module", params=["multi_label", "regression"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A certified bundle of each task, in a folder beside its data."""
    return made_bundle(tmp_path_factory.mktemp(request.param), request.param)


def data_of(bundle: Bundle) -> Path:
    return bundle.directory.parent / "data"


def photos_of(bundle: Bundle) -> list[bytes]:
    return [file.read_bytes() for file in sorted((data_of(bundle) / "test" / "photos").iterdir())]


def in_words(answer: dict[str, Any]) -> str:
    """The answer as `evaluate --predictions` and `predict` write it."""
    if "value" in answer:
        return f"{answer['value']:g}"
    return ";".join(sorted(one["label"] for one in answer["labels"]))


def test_a_certificate_is_about_whole_answers(made: Bundle) -> None:
    point = made.manifest.operating_point
    assert point.certificate is not None and point.certificate.p_value <= 0.2
    assert made.manifest.exits[0].measure in ("least_sure", "within_tolerance")
    assert made.manifest.exits[0].temperature != 1


async def test_two_nodes_answer_what_evaluation_found(made: Bundle, tmp_path: Path) -> None:
    bundle = with_thetas(made, (median_confidence(made),))
    result = offramp(
        "evaluate", bundle.directory, "--data", data_of(bundle), "--predictions", tmp_path / "found.csv"
    )
    assert result.exit_code == 0, result.output
    found = list(csv.DictReader((tmp_path / "found.csv").read_text().splitlines()))
    async with (
        running_cloud(bundle, blocks="2-2") as upstream,
        running_edge(bundle, upstream=upstream) as client,
    ):
        answers = [await predict(client, photo) for photo in photos_of(bundle)]
    assert {answer["exit"]["number"] for answer in answers} == {1, 2}
    for answer, row in zip(answers, found, strict=True):
        Prediction.model_validate(answer)
        assert not answer["degraded"] and "label" not in answer
        assert AsShown.model_validate(answer).label  # the dashboard finds words for it
        assert (in_words(answer), str(answer["exit"]["number"])) == (row["label"], row["exit"])
        assert f"{answer['confidence']:.9g}" == row["confidence"]


def median_confidence(bundle: Bundle) -> float:
    """A θ that half of the test photos reach at the first exit."""
    classifier = load(bundle.directory)
    classifier = type(classifier)(bundle, thetas=(0.0,))
    return float(np.median([classifier.classify(photo).confidence for photo in photos_of(bundle)]))


async def test_an_edge_whose_upstream_is_gone_still_gives_the_kind_of_answer_it_should(made: Bundle) -> None:
    bundle = with_thetas(made, (1.0,))
    async with running_edge(bundle, upstream="127.0.0.1:1") as client:
        answer = await predict(client, photos_of(bundle)[0])
        page = (await client.get("/", headers={"accept": "text/html"})).text
    assert answer["degraded"] and ("labels" in answer or answer["std"] > 0)
    assert "any number of 2 labels: left, right" in page or "an estimate of brightness, 0 to 255" in page


async def test_probabilities_are_those_of_every_label_or_none(made: Bundle) -> None:
    async with running_edge(made, blocks="1-2") as client:
        response = await client.post("/v1/predict?probabilities=true", content=photos_of(made)[0])
    answer = response.json()
    if made.manifest.task.kind == "regression":
        assert "probabilities" not in answer and answer["unit"] == "levels"
    else:
        given = {one["label"]: one["probability"] for one in answer["labels"]}
        assert given == {label: p for label, p in answer["probabilities"].items() if p >= 0.5}


def test_an_evaluation_tells_the_measure_that_people_know(made: Bundle) -> None:
    report = json.loads(offramp("evaluate", made.directory, "--data", data_of(made), "--json").stdout)[
        "closeness"
    ]
    measure = {"multi_label": "micro F1", "regression": "mean absolute error"}[made.manifest.task.kind]
    assert report["measure"] == measure and report["full"] > 0


def test_commands_show_the_answers_and_the_task(made: Bundle) -> None:
    shown = offramp("inspect", made.directory).stdout
    assert "2 labels, any number" in shown or "estimates brightness, 0 to 255 levels" in shown
    photo = data_of(made) / "test" / "photos" / "00.png"
    row = json.loads(offramp("predict", made.directory, photo, "--json").stdout)
    classified = load(made.directory).classify(photo.read_bytes())
    assert (row["label"], row["confidence"]) == (classified.label, classified.confidence)
    assert (classified.value is None) == (made.manifest.task.kind == "multi_label")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--task", "regression"), "needs a --quantity, such as angle,degrees,-45,45,5"),
        (("--task", "multi_label", "--quantity", BRIGHTNESS), "for the task regression, not for multi_label"),
        (("--quantity", "brightness,levels,low,255,5"), "write its name, unit"),
        (("--quantity", "brightness,levels,255,0,5"), "give low < high"),
        (("--quantity", "brightness,levels,0,255,300"), "every answer would be right"),
        (("--quantity", "brightness,levels,0,100,5"), "another range with --quantity"),
        (("--quantity", BRIGHTNESS, "--mixup", "0.2"), "--mixup need exclusive classes"),
        (("--quantity", BRIGHTNESS, "--label-smoothing", "0.1"), "--label-smoothing need exclusive classes"),
        (("--quantity", BRIGHTNESS, "--class-weights", "balanced"), "--class-weights need exclusive classes"),
        (("--quantity", BRIGHTNESS, "--labels", "a,b"), "a regression has no labels"),
        (("--quantity", BRIGHTNESS, "--unlabelled", "--regime", "distill"), "describe the photos"),
        (("--task", "multi_label"), "the task multi_label needs 'labels'"),
        ((), "the task single_label needs 'labels'"),
    ],
    ids=lambda given: " ".join(given)[:40] or "none" if isinstance(given, tuple) else "",
)
def test_training_refuses_what_does_not_fit_the_task(
    values: Path, tmp_path: Path, options: tuple[str, ...], says: str
) -> None:
    check_refused(
        offramp("train", "b-lenet-mnist", *options, "--data", values, "--out", tmp_path / "run"), says
    )


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos described by their brightness."""
    from tests.task_data import value_of, write_part

    folder = tmp_path_factory.mktemp("values")
    write_part(folder, "value", value_of, count=12, seed=0)
    return folder


def test_exporting_refuses_measures_and_aggregation_of_one_label(made: Bundle, tmp_path: Path) -> None:
    run = made.directory.parent / "run"
    check_refused(
        offramp("export", run, "--out", tmp_path / "a", "--measure", "entropy"), "does not fit the task"
    )
    check_refused(offramp("export", run, "--out", tmp_path / "b", "--aggregate"), "cannot be aggregated")


def test_a_guard_watches_over_every_task(made: Bundle, tmp_path: Path) -> None:
    out = tmp_path / f"guarded-{made.manifest.name}"
    result = offramp("guard", made.directory, "--data", data_of(made), "--out", out, "--false-alarms", "0.2")
    assert result.exit_code == 0, result.output
    found = load(out).classify(photos_of(made)[0])
    assert found.unfamiliar is not None and (found.value is None) == (
        made.manifest.task.kind == "multi_label"
    )


def test_a_plan_of_classes_is_refused_for_answers_without(made: Bundle) -> None:
    result = offramp("plan", made.directory, "--photos", data_of(made) / "test", "--link", "5mbit,40ms")
    check_refused(result, "a plan compares classes")


def test_a_page_shows_answers_in_words_and_nothing_of_classes(made: Bundle, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = offramp("evaluate", made.directory, "--data", data_of(made), "--page", page)
    assert result.exit_code == 0, result.output
    text = page.read_text(encoding="utf-8")
    assert text.count("<figure") == 24 and "Which classes are confused" not in text
    assert ("micro F1" in text and "left;right" in text) or "mean absolute error" in text
