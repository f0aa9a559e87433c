"""When a call that asks the next tier can expect others to ask as well, and when it is told that none will."""

from __future__ import annotations

import asyncio

import pytest

from offramp.serving import crowd
from offramp.serving.crowd import Crowd
from offramp.serving.offload.sharing import SharedCalls
from tests.test_sharing import Upstream, ask, own

_MOMENT_S = 0.2  # long enough for a test's own steps


class Counted(Crowd):
    def __init__(self) -> None:
        super().__init__()
        self.told = 0

    def count(self) -> None:
        self.told += 1


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counted:
    monkeypatch.setattr(crowd, "_MOMENT_S", _MOMENT_S)
    return Counted()


async def moments(number: float) -> None:
    await asyncio.sleep(number * _MOMENT_S)


def enter(calls: Crowd, number: int) -> None:
    for _ in range(number):
        calls.enter()


async def test_a_lone_client_expects_nobody_however_fast_it_asks(calls: Counted) -> None:
    for _ in range(3):
        calls.enter()
        with calls.asking():
            assert calls.is_all_asking
        calls.leave()


async def test_others_under_way_are_expected_until_the_last_one_asks(calls: Counted) -> None:
    enter(calls, 2)
    with calls.asking():
        assert not calls.is_all_asking
        with calls.asking():
            assert calls.is_all_asking


async def test_those_answered_a_moment_ago_are_expected_to_ask_again(calls: Counted) -> None:
    enter(calls, 2)
    calls.leave()
    with calls.asking():
        assert not calls.is_all_asking
        calls.tell(calls.count)
        await moments(0.5)
        assert calls.told == 0
        await moments(1)
        assert calls.told == 1


async def test_a_moment_begins_when_they_leave_however_long_they_were_under_way(calls: Counted) -> None:
    enter(calls, 4)
    await moments(1.5)
    for _ in range(3):
        calls.leave()
    with calls.asking():
        assert not calls.is_all_asking


async def test_what_was_under_way_long_ago_is_not_expected(calls: Counted) -> None:
    enter(calls, 2)
    calls.leave()
    await moments(1.2)
    with calls.asking():
        assert calls.is_all_asking


async def test_while_others_are_under_way_nobody_is_told(calls: Counted) -> None:
    enter(calls, 2)
    with calls.asking():
        calls.tell(calls.count)
        await moments(2)
        assert calls.told == 0
        calls.leave()
        await moments(1.5)
        assert calls.told == 1


async def test_while_others_come_and_go_nobody_is_told(calls: Counted) -> None:
    enter(calls, 2)
    with calls.asking():
        calls.tell(calls.count)
        for _ in range(30):
            calls.leave()
            await moments(0.1)
            calls.enter()
        assert calls.told == 0


async def test_whoever_waits_next_is_told_again_and_nobody_twice(calls: Counted) -> None:
    for told in (1, 2):
        enter(calls, 2)
        with calls.asking():
            calls.tell(calls.count)
            calls.leave()
            await moments(1.5)
            assert calls.told == told
        calls.leave()
        await moments(1.5)
        assert calls.told == told


async def test_who_fails_or_is_cancelled_asks_no_more(calls: Counted) -> None:
    enter(calls, 2)
    for error in (ValueError, asyncio.CancelledError):
        with pytest.raises(error), calls.asking():
            raise error
    with calls.asking():
        assert not calls.is_all_asking
    assert calls.under_way == 2


async def test_what_takes_long_to_encode_waits_for_nobody_who_left_meanwhile() -> None:
    crowd = Crowd()
    shared = SharedCalls(Upstream(), crowd, window_s=60.0)
    crowd.enter()
    crowd.enter()
    with crowd.asking():
        crowd.leave()
        await asyncio.sleep(0.05)  # it is being encoded
        async with asyncio.timeout(5):
            assert own(await ask(shared, 1)) == [1]
