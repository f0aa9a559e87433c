"""When a call on its way to the next tier can expect company, and when those that wait are told not to."""

from __future__ import annotations

import asyncio

import pytest

from offramp.serving import crowd
from offramp.serving.crowd import Crowd

_MOMENT_S = 0.2  # long enough for a test's own steps


class Counted(Crowd):
    def __init__(self) -> None:
        super().__init__(self._count)
        self.hurried = 0

    def _count(self) -> None:
        self.hurried += 1


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counted:
    monkeypatch.setattr(crowd, "_MOMENT_S", _MOMENT_S)
    return Counted()


async def moments(number: float) -> None:
    await asyncio.sleep(number * _MOMENT_S)


async def test_a_lone_client_expects_nobody_however_fast_it_asks(calls: Counted) -> None:
    for _ in range(3):
        calls.enter()
        with calls.asking() as is_last:
            assert is_last
        calls.leave()


async def test_who_asks_while_others_are_under_way_expects_them_until_the_last_one_asks(
    calls: Counted,
) -> None:
    calls.enter()
    calls.enter()
    with calls.asking() as is_last, calls.asking() as is_last_too:
        assert not is_last
        assert is_last_too
    assert calls.under_way == 2


async def test_those_answered_a_moment_ago_are_expected_to_ask_again(calls: Counted) -> None:
    calls.enter()
    calls.enter()
    calls.leave()
    with calls.asking() as is_last:
        assert not is_last
        await moments(0.2)
        assert calls.hurried == 0
        await moments(3)
        assert calls.hurried == 1, "nobody came"


async def test_who_waits_is_told_once_the_others_have_left_for_a_moment(calls: Counted) -> None:
    calls.enter()
    calls.enter()
    with calls.asking():
        await moments(3)
        assert calls.hurried == 0, "the other one is still under way"
        calls.leave()
        await moments(3)
        assert calls.hurried == 1


async def test_while_others_come_and_go_nobody_is_told(calls: Counted) -> None:
    calls.enter()
    calls.enter()
    with calls.asking():
        for _ in range(30):
            calls.leave()
            await moments(0.1)
            calls.enter()
        assert calls.hurried == 0
        calls.leave()
        await moments(3)
        assert calls.hurried == 1


async def test_what_was_under_way_long_ago_is_not_expected(calls: Counted) -> None:
    calls.enter()
    calls.enter()
    calls.leave()
    await moments(1.5)
    with calls.asking() as is_last:
        assert is_last


async def test_who_gave_up_is_not_told(calls: Counted) -> None:
    calls.enter()
    calls.enter()
    calls.leave()
    with calls.asking():
        pass
    calls.leave()
    await moments(3)
    assert (calls.under_way, calls.hurried) == (0, 0)
