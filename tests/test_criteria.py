"""What exits of several labels or of a quantity learn from, say and are sure of."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from offramp.authoring.evaluation.judging import closeness, is_right, said_of
from offramp.authoring.networks.confidence import Confidence, measure_of
from offramp.authoring.selection.temperature import fit_temperature
from offramp.authoring.training.criteria import Criterion, LabelsCriterion, ValueCriterion
from offramp.authoring.training.losses import self_taught_loss
from offramp.bundle.manifest import Manifest
from offramp.bundle.task import LEAST_STD, Quantity, Task
from offramp.errors import ConfigError
from offramp.wire.messages import probabilities_from_bytes, probabilities_to_bytes
from tests.builders import manifest_with

ANGLE = Quantity(name="angle", unit="degrees", low=-40, high=60, tolerance=5)
LABELS, VALUE = Task(kind="multi_label"), Task(kind="regression", quantity=ANGLE)


def outputs(value: float, std: float) -> torch.Tensor:
    """What an EEC returns for an angle of this value and standard deviation."""
    return torch.tensor([[(value - 10) / 50, _before_softplus(std / 50)]])


def _before_softplus(scaled: float) -> float:
    return math.log(math.expm1(scaled - LEAST_STD))


def test_the_confidence_of_labels_is_that_of_the_least_sure() -> None:
    confidence = Confidence("least_sure", task=LABELS)
    probabilities, sure = confidence.of(
        torch.tensor([[9.0, 0.0, -9.0], [9.0, 2.0, -9.0], [99.0, 99.0, -99.0]])
    )
    assert probabilities[0].tolist() == pytest.approx([0.9999, 0.5, 0.0001], abs=1e-4)
    assert sure[0] == 0 and sure[1] == pytest.approx(2 * torch.tensor(2.0).sigmoid() - 1)
    assert 0.99 < sure[2] < 1  # θ = 1 never stops


def test_the_confidence_of_a_value_is_the_chance_that_it_is_within_the_tolerance() -> None:
    (answer,), (sure,) = Confidence("within_tolerance", task=VALUE).of(outputs(23.0, 5.0))
    assert answer.tolist() == pytest.approx([23.0, 5.0])
    assert sure == pytest.approx(0.6827, abs=1e-4)
    _, (wide,) = Confidence("within_tolerance", 2.0, task=VALUE).of(outputs(23.0, 2.5))
    assert wide == pytest.approx(sure)  # a temperature of 2 doubles the deviation


@pytest.mark.parametrize(
    ("task", "measure"), [(LABELS, "entropy"), (VALUE, "learned"), (Task(), "least_sure")]
)
def test_a_measure_of_another_task_is_refused(task: Task, measure: str) -> None:
    with pytest.raises(ConfigError, match="does not fit the task"):
        measure_of(task, measure)  # type: ignore[arg-type] # a name, as from the command line


@pytest.mark.parametrize(
    ("criterion", "right", "wrong", "target"),
    [
        (LabelsCriterion(), [[4.0, -4.0]], [[4.0, 1.0]], torch.tensor([[1, 0]])),
        (ValueCriterion(ANGLE), outputs(20, 3).tolist(), outputs(35, 3).tolist(), torch.tensor([24.0])),
    ],
)
def test_a_right_answer_costs_less_and_is_learned_from_a_teacher(
    criterion: Criterion, right: list[list[float]], wrong: list[list[float]], target: torch.Tensor
) -> None:
    good, bad = torch.tensor(right), torch.tensor(wrong, requires_grad=True)
    assert criterion.right(good, target).tolist() == [True] and criterion.right(bad, target).tolist() == [
        False
    ]
    assert criterion.labelled(good, target) < criterion.labelled(bad, target)
    assert criterion.taught(good, good, 2.0) == pytest.approx(0, abs=1e-6)
    loss = self_taught_loss({1: bad, 2: good}, target, {1: 1.0, 2: 1.0}, share=0.5, criterion=criterion)
    (gradient,) = torch.autograd.grad(loss, bad)
    assert criterion.labelled(bad - 0.1 * gradient, target) < criterion.labelled(bad, target)


def test_a_loss_of_labels_is_the_likelihood_of_the_whole_set() -> None:
    logits, given = torch.tensor([[0.3, -1.2, 2.0]]), torch.tensor([[1, 0, 0]])
    p = logits.sigmoid()[0]
    expected = -(p[0].log() + (1 - p[1]).log() + (1 - p[2]).log())
    torch.testing.assert_close(LabelsCriterion().labelled(logits, given), expected)


def test_a_certain_and_wrong_value_cannot_end_the_training() -> None:
    loss = ValueCriterion(ANGLE).labelled(
        torch.tensor([[0.0, -1e9], [1.0, 1e9]]), torch.tensor([60.0, -40.0])
    )
    assert torch.isfinite(loss)


def test_a_temperature_makes_a_deviation_as_large_as_the_errors() -> None:
    generator = np.random.default_rng(0)
    value_N = generator.uniform(-40, 60, 4000).astype(np.float32)
    said_N = value_N + generator.normal(0, 6, 4000)
    claimed = np.stack([(said_N - 10) / 50, np.full(4000, _before_softplus(2 / 50))], axis=1).astype(
        np.float32
    )
    assert fit_temperature(claimed, value_N, VALUE) == pytest.approx(3, rel=0.05)


def test_a_temperature_of_labels_lowers_what_they_cost() -> None:
    generator = np.random.default_rng(0)
    logits_NK = generator.normal(0, 2, (3000, 4)).astype(np.float32)
    given_NK = (generator.random((3000, 4)) < 1 / (1 + np.exp(-logits_NK))).astype(np.uint8)
    assert fit_temperature(3 * logits_NK, given_NK, LABELS) == pytest.approx(3, rel=0.1)


def test_answers_are_judged_whole() -> None:
    said = said_of(LABELS, np.array([[0.5, 0.1], [0.9, 0.9]], np.float32))
    truth = np.array([[1, 0], [1, 0]], np.uint8)
    assert is_right(LABELS, said, truth).tolist() == [True, False]
    found = closeness(LABELS, said, said, truth)
    assert found is not None and found.here == pytest.approx(2 * 2 / (3 + 2))
    values = said_of(VALUE, np.array([[10, 1], [10, 1]], np.float32))
    assert is_right(VALUE, values, np.array([15, 15.1])).tolist() == [True, False]
    found = closeness(VALUE, values, values, np.array([15.0, 5.0]))
    assert found is not None and (found.here, found.unit) == (5.0, "degrees")


def test_tasks_have_ids_of_their_own_and_the_plain_one_keeps_the_old() -> None:
    exits = [True, True]
    plain, labels = manifest_with(exits), manifest_with(exits, task=LABELS)
    value = manifest_with(exits, task=VALUE, labels=())
    wider = Task(kind="regression", quantity=ANGLE.model_copy(update={"tolerance": 6.0}))
    ids = {each.bundle_id for each in (plain, labels, value, manifest_with(exits, task=wider, labels=()))}
    assert len(ids) == 4 and manifest_with(exits, task=Task()).bundle_id == plain.bundle_id
    without = plain.model_dump(exclude={"task"})
    assert Manifest.model_validate(without).bundle_id == plain.bundle_id


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"task": VALUE}, "a regression has no labels, got 2"),
        ({"labels": (), "task": LABELS}, "0 labels"),
        ({"task": LABELS, "aggregates": True}, "aggregates is for probabilities that sum to 1"),
    ],
)
def test_a_task_that_contradicts_its_bundle_is_refused(parts: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        manifest_with([True, True], **parts)


@pytest.mark.parametrize("parts", [{"kind": "regression"}, {"kind": "multi_label", "quantity": ANGLE}])
def test_a_quantity_belongs_to_a_regression_and_only_to_it(parts: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="a regression needs a quantity, and no other task has one"):
        Task.model_validate(parts)


@pytest.mark.parametrize(
    ("task", "labels", "numbers", "is_fine"),
    [
        (Task(), ("a", "b"), (0.25, 0.75), True),
        (Task(), ("a", "b"), (0.25, 1.75), False),
        (Task(), ("a", "b"), (0.0, 0.0), False),
        (Task(), ("a", "b"), (0.75, 0.75), False),
        (Task(), ("a", "b"), (1e30, 0.0), False),
        (LABELS, ("a", "b"), (0.9, 0.9), True),
        (LABELS, ("a", "b"), (-0.1, 0.9), False),
        (LABELS, ("a", "b"), (0.1, 0.9, 0.5), False),
        (VALUE, (), (-33.0, 2.0), True),
        (VALUE, (), (-33.0, 0.0), False),
        (VALUE, (), (math.nan, 2.0), False),
    ],
)
def test_a_peers_answer_is_checked_by_the_task(
    task: Task, labels: tuple[str, ...], numbers: tuple[float, ...], is_fine: bool
) -> None:
    manifest = manifest_with([True, True], task=task, labels=labels)
    payload = probabilities_to_bytes(np.array(numbers, np.float32))
    assert (probabilities_from_bytes(payload, manifest) is not None) == is_fine
