"""Offloads that share a call: who travels together, who does not, and that everybody gets their own answer."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
import pytest

from offramp.engine.payload import ANY_SENT
from offramp.engine.tier import Answer, Handover
from offramp.errors import OffloadError, OffloadReason
from offramp.serving.answers import Answers, Classified, TierTime
from offramp.serving.call import Call, Sample
from offramp.serving.crowd import Crowd
from offramp.serving.offload import Accepts, UpstreamState, sharing
from offramp.serving.offload.sharing import SharedCalls


class Upstream:
    """Answers each sample with its own number as confidence, after `delay_s`; refuses calls that hold `bad`."""

    def __init__(
        self,
        *,
        delay_s: float = 0.0,
        error: OffloadError | None = None,
        bad: str | None = None,
        accepts: Accepts | None = None,
    ) -> None:
        self.calls: list[list[str]] = []
        self.time_left: list[float] = []
        self.accepts = accepts or Accepts(besides_features=ANY_SENT, max_pixels=25_000_000, max_samples=1024)
        self._delay_s = delay_s
        self._error = error
        self._bad = bad

    state = UpstreamState("upstream:1", up=True, reason=None)

    async def resume(self, call: Call) -> Answers:
        request_ids = [sample.request_id for sample in call.samples]
        self.calls.append(request_ids)
        self.time_left.append(call.deadline - time.monotonic())
        await asyncio.sleep(self._delay_s)
        if self._error:
            raise self._error
        if self._bad in request_ids:
            raise OffloadError("bad", OffloadReason.REFUSED, uplink_bytes=7, blames_request=True)
        samples = [
            Classified(Answer(sample.feature, float(sample.request_id) / 100, 2), "cloud", uplink_bytes=100)
            for sample in call.samples
        ]
        return Answers(samples, [TierTime("cloud", 0.1, 0.2)])


async def ask(
    shared: SharedCalls,
    *numbers: int,
    thetas: tuple[float, ...] = (0.5,),
    timeout_s: float = 1.0,
    size: int = 1,
    traceparent: str | None = None,
    num_pixels: int = 0,
) -> Answers:
    """Ask for samples with features of `size` numbers; with `num_pixels`, as images."""
    call = Call(
        samples=[
            Sample(str(number), b"image", num_pixels, Handover(2, np.full(size, number, np.float32)))
            for number in numbers
        ],
        thetas=thetas,
        first_block=1 if num_pixels else 2,
        deadline=time.monotonic() + timeout_s,
        traceparent=traceparent,
        sent="image" if num_pixels else "feature",
    )
    return await shared.resume(call)


def own(answers: Answers) -> list[int]:
    return [round(100 * sample.answer.confidence) for sample in answers.samples]


def uplink_bytes(answers: Answers) -> list[int]:
    return [sample.uplink_bytes for sample in answers.samples]


async def test_what_comes_in_one_round_of_the_loop_shares_a_call_and_gets_its_own_answers() -> None:
    upstream = Upstream()
    shared = SharedCalls(upstream, Crowd(), window_s=0.0)
    found = await asyncio.gather(ask(shared, 1), ask(shared, 2, 3), ask(shared, 4))
    assert upstream.calls == [["1", "2", "3", "4"]]
    assert [own(answers) for answers in found] == [[1], [2, 3], [4]]
    assert [uplink_bytes(answers) for answers in found] == [[100], [100, 100], [100]]


@pytest.mark.parametrize(
    "other",
    [{"thetas": (0.9,)}, {"timeout_s": 0.2}, {"traceparent": "00-ab"}, {"num_pixels": 64}],
    ids=["theta", "deadline", "trace", "payload"],
)
async def test_what_differs_does_not(other: dict[str, object]) -> None:
    upstream = Upstream()
    shared = SharedCalls(upstream, Crowd(), window_s=0.0)
    found = await asyncio.gather(ask(shared, 1), ask(shared, 2, **other))  # type: ignore[arg-type] # one of its own
    assert sorted(upstream.calls) == [["1"], ["2"]]
    assert [own(answers) for answers in found] == [[1], [2]]


async def test_the_least_time_left_counts() -> None:
    upstream = Upstream()
    shared = SharedCalls(upstream, Crowd(), window_s=0.0)
    await asyncio.gather(ask(shared, 1, timeout_s=0.9), ask(shared, 2, timeout_s=0.6))
    [time_left] = upstream.time_left
    assert 0.5 < time_left <= 0.6


async def test_a_call_holds_so_many_samples_and_bytes() -> None:
    upstream = Upstream()
    shared = SharedCalls(upstream, Crowd(), window_s=0.0)
    await asyncio.gather(*(ask(shared, number) for number in range(1, 41)))
    assert [len(call) for call in upstream.calls] == [32, 8]
    upstream.calls.clear()
    # 40,000 bytes each: two are more than a call takes, one alone goes whatever it has.
    await asyncio.gather(
        *(ask(shared, number, size=10_000) for number in (1, 2)), ask(shared, 3, size=99_999)
    )
    assert upstream.calls == [["1"], ["2"], ["3"]]


async def test_a_large_photo_travels_alone_and_small_ones_share() -> None:
    upstream = Upstream()
    shared = SharedCalls(upstream, Crowd(), window_s=0.0)
    sizes = {1: 100_000, 2: 100_000, 3: 13_000_000, 4: 100_000, 5: 100_000}
    await asyncio.gather(*(ask(shared, number, num_pixels=pixels) for number, pixels in sizes.items()))
    assert upstream.calls == [["1", "2"], ["3"], ["4", "5"]]


async def test_no_call_holds_more_than_the_upstream_accepts() -> None:
    upstream = Upstream(accepts=Accepts(besides_features=ANY_SENT, max_pixels=250_000, max_samples=3))
    shared = SharedCalls(upstream, Crowd(), window_s=0.0)
    await asyncio.gather(*(ask(shared, number, num_pixels=100_000) for number in (1, 2, 3)))
    await asyncio.gather(*(ask(shared, number) for number in (4, 5, 6, 7)))
    assert upstream.calls == [["1", "2"], ["3"], ["4", "5", "6"], ["7"]]
    upstream = Upstream(accepts=Accepts(ANY_SENT, 10**6, 1024, max_features=2, max_bytes=12))
    shared = SharedCalls(upstream, Crowd(), window_s=0.0)
    await asyncio.gather(*(ask(shared, number) for number in (1, 2, 3)))
    await asyncio.gather(*(ask(shared, number, num_pixels=9) for number in (4, 5, 6)))
    assert upstream.calls == [["1", "2"], ["3"], ["4", "5"], ["6"]]


class Others(Crowd):
    """A crowd of which the test says whether all are asking."""

    is_all_asking = False

    def leave(self) -> None:
        self.is_all_asking = True
        self._look()


async def later(shared: SharedCalls, number: int, delay_s: float, **how: Any) -> Answers:
    await asyncio.sleep(delay_s)
    return await ask(shared, number, **how)


async def test_while_others_may_come_who_asks_waits_for_them_but_no_longer_than_the_window() -> None:
    upstream = Upstream()
    shared = SharedCalls(upstream, Others(), window_s=0.05)
    await asyncio.gather(
        *(later(shared, number, delay_s) for number, delay_s in enumerate((0, 0.01, 0.03, 0.1)))
    )
    assert upstream.calls == [["0", "1", "2"], ["3"]]


async def test_the_last_one_sends_all_that_wait() -> None:
    others = Others()
    shared = SharedCalls(Upstream(), others, window_s=60.0)
    asking = asyncio.create_task(ask(shared, 1))
    await asyncio.sleep(0.01)
    others.is_all_asking = True
    async with asyncio.timeout(5):
        found = await asyncio.gather(asking, ask(shared, 2))
    assert [own(answers) for answers in found] == [[1], [2]]


async def test_a_traced_one_sends_all_that_wait() -> None:
    shared = SharedCalls(Upstream(), Others(), window_s=60.0)
    async with asyncio.timeout(5):
        found = await asyncio.gather(ask(shared, 1), later(shared, 2, 0.01, traceparent="00-ab"))
    assert [own(answers) for answers in found] == [[1], [2]]


async def test_nothing_waits_once_nobody_else_can_be_expected() -> None:
    others = Others()
    shared = SharedCalls(Upstream(), others, window_s=60.0)
    asking = asyncio.create_task(ask(shared, 1))
    await asyncio.sleep(0.01)
    assert not asking.done()
    others.leave()
    async with asyncio.timeout(5):
        assert own(await asking) == [1]


async def test_when_all_of_a_moment_ago_ask_but_one_that_left_they_wait_for_no_window() -> None:
    upstream, crowd = Upstream(), Crowd()
    shared = SharedCalls(upstream, crowd, window_s=60.0)
    for _ in range(3):
        crowd.enter()
    crowd.leave()
    async with asyncio.timeout(5):
        with crowd.asking():
            first = asyncio.create_task(ask(shared, 1))
            await asyncio.sleep(0)
            with crowd.asking():
                await ask(shared, 2)
                await first
    assert upstream.calls == [["1", "2"]]


async def test_after_waiting_in_vain_again_and_again_nothing_waits_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sharing, "_PAUSE_S", 0.5)
    shared = SharedCalls(Upstream(), Others(), window_s=0.05)

    async def waited_s(*numbers: int) -> float:
        begun = time.monotonic()
        await asyncio.gather(*(ask(shared, number) for number in numbers))
        return time.monotonic() - begun

    in_vain = [await waited_s(1) for _ in range(4)]
    assert min(in_vain) >= 0.045
    assert await waited_s(1) < 0.045
    await asyncio.sleep(0.5)
    assert await waited_s(1) >= 0.045, "the pause is over"


async def test_two_that_meet_by_themselves_end_the_pause() -> None:
    upstream = Upstream()
    shared = SharedCalls(upstream, Others(), window_s=0.02)
    for number in range(4):
        await ask(shared, number)
    await asyncio.gather(ask(shared, 5), ask(shared, 6))
    await asyncio.gather(ask(shared, 7), later(shared, 8, 0.005))
    assert upstream.calls[4:] == [["5", "6"], ["7", "8"]]


async def test_company_now_and_then_is_worth_waiting_for() -> None:
    upstream = Upstream()
    shared = SharedCalls(upstream, Others(), window_s=0.01)
    for number in range(3):
        await ask(shared, number)
    await asyncio.gather(ask(shared, 3), later(shared, 4, 0.002))
    for number in range(5, 8):
        await ask(shared, number)
    await asyncio.gather(ask(shared, 8), later(shared, 9, 0.002))
    assert upstream.calls[3] == ["3", "4"]
    assert upstream.calls[-1] == ["8", "9"]


async def test_a_failure_is_that_of_all_who_shared_the_call() -> None:
    error = OffloadError("gone", OffloadReason.LATE, uplink_bytes=100)
    upstream = Upstream(error=error)
    shared = SharedCalls(upstream, Crowd(), window_s=0.0)
    found = await asyncio.gather(ask(shared, 1), ask(shared, 2, 3), return_exceptions=True)
    assert upstream.calls == [["1", "2", "3"]], "a call that failed for a reason of its own is not repeated"
    assert [
        (str(each), each.reason, each.uplink_bytes) for each in found if isinstance(each, OffloadError)
    ] == [("gone", OffloadReason.LATE, 100)] * 2


async def test_a_request_that_is_refused_costs_those_it_travelled_with_a_second_call_and_no_more() -> None:
    upstream = Upstream(bad="2")
    shared = SharedCalls(upstream, Crowd(), window_s=0.0)
    first, refused, third = await asyncio.gather(
        ask(shared, 1), ask(shared, 2), ask(shared, 3, 4), return_exceptions=True
    )
    assert upstream.calls == [["1", "2", "3", "4"], ["1"], ["2"], ["3", "4"]]
    assert isinstance(first, Answers) and isinstance(third, Answers)
    assert (own(first), own(third)) == ([1], [3, 4])
    assert isinstance(refused, OffloadError) and str(refused) == "bad"
    # What went up the first time counts, too.
    assert (uplink_bytes(first), refused.uplink_bytes) == ([107], 14)


async def test_who_leaves_takes_nobody_along() -> None:
    upstream = Upstream(delay_s=0.05)
    shared = SharedCalls(upstream, Crowd(), window_s=0.0)
    before = asyncio.create_task(ask(shared, 1))
    during, stays = asyncio.create_task(ask(shared, 2)), asyncio.create_task(ask(shared, 3))
    await asyncio.sleep(0)
    before.cancel()
    await asyncio.sleep(0.02)
    during.cancel()
    assert own(await stays) == [3]
    assert upstream.calls == [["2", "3"]]
