"""What is expected of a batch, from batches that have run."""

from __future__ import annotations

import math

import pytest

from offramp.serving.pace import Pace


@pytest.mark.parametrize(
    ("ran", "samples", "expected_s"),
    [
        ({}, 1, math.inf),
        ({1: 0.2}, 1, 0.2),
        ({1: 0.2}, 4, 0.8),  # four times as long, at most
        ({1: 0.2, 8: 0.4}, 8, 0.4),
        ({1: 0.2, 8: 0.4}, 4, 0.4),  # no longer than a larger one
        ({1: 0.2, 8: 0.4}, 2, 0.4),
        ({1: 0.1, 8: 0.8}, 2, 0.2),
        ({1: 0.2, 8: 0.4}, 32, 1.6),
        ({3: 0.3}, 4, 0.4),  # sizes are counted up to the next power of two
        ({3: 0.3}, 3, 0.3),
    ],
)
def test_a_batch_takes_no_longer_than_a_larger_one_or_several_smaller_ones(
    ran: dict[int, float], samples: int, expected_s: float
) -> None:
    pace = Pace()
    for size, seconds in ran.items():
        pace.learn(2, size, seconds)
    assert pace.expected_s(2, samples) == pytest.approx(expected_s)
    assert pace.expected_s(1, samples) == math.inf, "another block says nothing"


@pytest.mark.parametrize(
    ("ran", "most"),
    [
        ({}, 0),
        ({1: 3.0}, 0),
        ({1: 0.5}, 4),
        ({1: 0.5, 8: 1.0}, 16),
        ({1: 0.3, 32: 4.0}, 6),
        ({4: 1.2}, 6),
    ],
)
def test_as_many_samples_fit_as_are_expected_to_be_done_in_time(ran: dict[int, float], most: int) -> None:
    pace = Pace()
    for size, seconds in ran.items():
        pace.learn(1, size, seconds)
    assert pace.most_within(1, 2.0) == most
    assert not most or pace.expected_s(1, most) <= 2.0


def test_an_estimate_follows_what_batches_take_now() -> None:
    pace = Pace()
    pace.learn(1, 1, 1.0)
    for _ in range(50):
        pace.learn(1, 1, 0.1)
    assert pace.expected_s(1, 1) == pytest.approx(0.1, rel=0.1)
