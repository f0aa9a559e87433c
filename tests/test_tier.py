"""The tier: which exit answers, and what is never computed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from offramp.bundle import Bundle
from offramp.engine.runtime import load_blocks
from offramp.engine.tier import Answer, DecisionFunction, Handover, Outcome, Tier, checked_thetas
from offramp.errors import ConfigError
from tests.builders import ScriptedBlock, manifest_with, samples

Confidences = Sequence[float] | None


def run(
    *confidences: Confidences, thetas: Sequence[float], count: int = 1, start: int = 1, of: int | None = None
) -> tuple[list[Outcome], list[ScriptedBlock]]:
    """Run `count` samples through scripted blocks, the first of which is block `start` of `of` blocks."""
    blocks = [ScriptedBlock(each) for each in confidences]
    before, behind = start - 1, (of or start + len(blocks) - 1) - (start + len(blocks) - 1)
    exits = [False] * before + [each is not None for each in confidences] + [True] * behind
    outcomes = Tier(manifest_with(exits), blocks, start=start).run(samples(count), thetas)
    return outcomes, blocks


def exits_of(outcomes: list[Outcome]) -> list[int]:
    return [outcome.exit_number for outcome in outcomes if isinstance(outcome, Answer)]


def test_blocks_behind_the_taken_exit_are_never_run() -> None:
    outcomes, (first, second, third) = run([0.1], [0.9], [0.9], thetas=(0.8, 0.8))
    assert exits_of(outcomes) == [2]
    assert (first.seen, second.seen, third.seen) == ([[0]], [[0]], [])


def test_a_sample_with_an_answer_is_taken_out_of_the_batch() -> None:
    outcomes, blocks = run(
        [0.9, 0.1, 0.9, 0.1, 0.1], [0, 0.9, 0, 0.1, 0.9], [0, 0, 0, 0.1, 0], thetas=(0.8, 0.8), count=5
    )
    assert exits_of(outcomes) == [1, 2, 1, 3, 2]
    assert [block.seen for block in blocks] == [[[0, 1, 2, 3, 4]], [[1, 3, 4]], [[3]]]


@pytest.mark.parametrize("confidence", [0.0, 0.2, float("nan")])
def test_the_last_exit_answers_however_unsure(confidence: float) -> None:
    outcomes, _ = run([0.1], [confidence], thetas=(1.0,))
    assert exits_of(outcomes) == [2]


def test_theta_0_stops_at_the_first_exit() -> None:
    outcomes, (_, second) = run([0.0], [0.9], thetas=(0.0,))
    assert exits_of(outcomes) == [1] and second.seen == []


def test_theta_1_never_stops() -> None:
    surest = float(np.nextafter(np.float32(1), np.float32(0)))
    assert exits_of(run([surest], [0.1], thetas=(1.0,))[0]) == [2]


@pytest.mark.parametrize(
    ("thetas", "expected"),
    [((0.4, 0.9, 0.9), 1), ((0.9, 0.4, 0.9), 2), ((0.9, 0.9, 0.4), 3), ((0.9,) * 3, 4)],
)
def test_every_exit_decides_by_its_own_theta(thetas: Sequence[float], expected: int) -> None:
    assert exits_of(run([0.5], [0.5], [0.5], [0.5], thetas=thetas)[0]) == [expected]


@pytest.mark.parametrize(("thetas", "stops"), [((0.9, 0.4), True), ((0.4, 0.9), False)])
def test_a_tier_in_the_middle_decides_by_its_own_theta(thetas: Sequence[float], stops: bool) -> None:
    blocks = [ScriptedBlock([0.5])]
    outcome = Tier(manifest_with([True] * 3), blocks, start=2).run(samples(1), thetas)[0]
    assert isinstance(outcome, Answer) == stops


def test_a_confidence_that_equals_theta_stops() -> None:
    confidences = np.array([0.7, 0.6999999], dtype=np.float32).tolist()
    assert [DecisionFunction(0.7).stops(confidence) for confidence in confidences] == [True, False]


def test_an_undecided_sample_is_handed_over_with_its_feature_and_the_surest_answer_so_far() -> None:
    outcomes, _ = run([0.3, 0.9], [0.2, 0.0], thetas=(0.8, 0.8), count=2, of=3)
    handover = outcomes[0]
    assert isinstance(handover, Handover) and isinstance(outcomes[1], Answer)
    assert handover.next_block == 3 and handover.feature.tolist() == [0]
    assert handover.surest is not None
    assert handover.surest.exit_number == 1 and handover.surest.confidence == pytest.approx(0.3)


def test_the_surest_answer_may_be_that_of_a_deeper_exit() -> None:
    outcomes, _ = run([0.3], [0.5], thetas=(0.8, 0.8), of=3)
    assert isinstance(outcomes[0], Handover) and outcomes[0].surest is not None
    assert outcomes[0].surest.exit_number == 2


@pytest.mark.parametrize(("first", "second", "expected"), [(float("nan"), 0.1, 2), (0.1, float("nan"), 1)])
def test_a_confidence_that_is_no_number_is_never_the_surest(
    first: float, second: float, expected: int
) -> None:
    outcomes, _ = run([first], [second], thetas=(0.8, 0.8), of=3)
    assert isinstance(outcomes[0], Handover) and outcomes[0].surest is not None
    assert outcomes[0].surest.exit_number == expected


def test_a_tier_without_an_exit_hands_over_without_an_answer() -> None:
    outcomes, _ = run(None, thetas=(), of=2)
    assert isinstance(outcomes[0], Handover) and outcomes[0].surest is None


def test_a_block_without_an_exit_is_passed_by_all() -> None:
    outcomes, blocks = run([0.1, 0.1], None, [0.1, 0.1], thetas=(0.8,), count=2)
    assert exits_of(outcomes) == [2, 2]
    assert [block.seen for block in blocks] == [[[0, 1]]] * 3


def test_a_tier_in_the_middle_counts_blocks_and_exits_from_the_front() -> None:
    outcomes, _ = run([0.1, 0.9], thetas=(0.8,), count=2, start=3, of=4)
    assert isinstance(outcomes[0], Handover) and outcomes[0].next_block == 4
    assert isinstance(outcomes[1], Answer) and outcomes[1].exit_number == 1


def test_it_can_begin_in_the_middle_of_its_range() -> None:
    blocks = [ScriptedBlock([0.1]), ScriptedBlock([0.1]), ScriptedBlock([0.1])]
    outcomes = Tier(manifest_with([True] * 3), blocks, start=1).run(samples(1), (1.0, 1.0), first_block=2)
    assert exits_of(outcomes) == [3]
    assert blocks[0].seen == [] and blocks[1].seen == [[0]]


def test_no_samples_give_no_outcomes_and_run_nothing() -> None:
    outcomes, blocks = run([0.5], [0.5], thetas=(0.5,), count=0)
    assert outcomes == [] and [block.seen for block in blocks] == [[], []]


@pytest.mark.parametrize("split", [2, 3])
def test_a_split_network_equals_the_whole(
    tiny_bundle: Bundle, tiny_pixels: NDArray[np.uint8], split: int
) -> None:
    manifest, thetas = tiny_bundle.manifest, tiny_bundle.manifest.operating_point.thetas
    whole = Tier(manifest, load_blocks(tiny_bundle, 1, 3), start=1)
    edge = Tier(manifest, load_blocks(tiny_bundle, 1, split - 1), start=1)
    cloud = Tier(manifest, load_blocks(tiny_bundle, split, 3), start=split)
    for pixels in tiny_pixels:
        expected = whole.run(pixels[np.newaxis], thetas)[0]
        found = edge.run(pixels[np.newaxis], thetas)[0]
        if isinstance(found, Handover):
            found = cloud.run(found.feature[np.newaxis], thetas)[0]
        assert isinstance(expected, Answer) and isinstance(found, Answer)
        assert found.exit_number == expected.exit_number and found.confidence == expected.confidence
        assert np.abs(found.probabilities - expected.probabilities).max() <= 1e-5


@pytest.mark.parametrize(
    ("thetas", "says"),
    [
        ((), "0 thetas"),
        ((0.5,), "1 thetas"),
        ((0.5, 0.5, 0.5), "3 thetas"),
        ((1.3, 0.5), "theta of exit 1 is 1.3"),
        ((0.5, -0.1), "theta of exit 2 is -0.1"),
        ((float("nan"), 0.5), "theta of exit 1 is nan"),
        ((0.5, float("inf")), "theta of exit 2 is inf"),
    ],
)
def test_thetas_that_do_not_fit_are_refused(thetas: Sequence[float], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        checked_thetas(thetas, manifest_with([True] * 3))


def test_thetas_may_reach_both_ends() -> None:
    assert checked_thetas((0, 1), manifest_with([True] * 3)) == (0.0, 1.0)
