"""Offloads that share a call: who travels together, who does not, and that everybody gets their own answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from offramp.engine.tier import Answer, Handover
from offramp.errors import OffloadError, OffloadReason
from offramp.serving.offload import Resumed, TierTime, UpstreamAnswer, UpstreamState
from offramp.serving.offload.sharing import SharedCalls


class Upstream:
    """Answers each sample with its own number as confidence, after `delay_s`."""

    def __init__(self, *, delay_s: float = 0.0, error: OffloadError | None = None) -> None:
        self.calls: list[list[str]] = []
        self.timeouts: list[float] = []
        self._delay_s = delay_s
        self._error = error

    state = UpstreamState("upstream:1", up=True, reason=None)

    async def resume(
        self,
        handovers: Sequence[Handover],
        *,
        thetas: Sequence[float],
        request_ids: Sequence[str],
        timeout_s: float,
        images: Sequence[bytes] | None = None,
        traceparent: str | None = None,
    ) -> Resumed:
        self.calls.append(list(request_ids))
        self.timeouts.append(timeout_s)
        await asyncio.sleep(self._delay_s)
        if self._error:
            raise self._error
        answers = [
            UpstreamAnswer(Answer(handover.feature, float(request_id) / 100, 2), "cloud", None, "feature")
            for handover, request_id in zip(handovers, request_ids, strict=True)
        ]
        return Resumed(answers, [TierTime("cloud", 0.1, 0.2)], 100 * len(answers))


async def ask(
    shared: SharedCalls,
    *numbers: int,
    thetas: Sequence[float] = (0.5,),
    timeout_s: float = 1.0,
    size: int = 1,
    traceparent: str | None = None,
) -> Resumed:
    return await shared.resume(
        [Handover(2, np.full(size, number, np.float32)) for number in numbers],
        thetas=thetas,
        request_ids=[str(number) for number in numbers],
        timeout_s=timeout_s,
        traceparent=traceparent,
    )


def own(resumed: Resumed) -> list[int]:
    return [round(100 * answer.answer.confidence) for answer in resumed.answers]


async def test_what_comes_in_one_round_of_the_loop_shares_a_call_and_gets_its_own_answers() -> None:
    upstream = Upstream()
    shared = SharedCalls(upstream, window_s=0.0)
    found = await asyncio.gather(ask(shared, 1), ask(shared, 2, 3), ask(shared, 4))
    assert upstream.calls == [["1", "2", "3", "4"]]
    assert [own(resumed) for resumed in found] == [[1], [2, 3], [4]]
    assert [resumed.uplink_bytes for resumed in found] == [100, 200, 100]


@pytest.mark.parametrize(
    "other",
    [{"thetas": (0.9,)}, {"timeout_s": 0.2}, {"traceparent": "00-ab"}],
    ids=["theta", "deadline", "trace"],
)
async def test_what_differs_does_not(other: dict[str, object]) -> None:
    upstream = Upstream()
    shared = SharedCalls(upstream, window_s=0.0)
    found = await asyncio.gather(ask(shared, 1), ask(shared, 2, **other))  # type: ignore[arg-type] # one of its own
    assert sorted(upstream.calls) == [["1"], ["2"]]
    assert [own(resumed) for resumed in found] == [[1], [2]]


async def test_the_least_time_left_counts() -> None:
    upstream = Upstream()
    shared = SharedCalls(upstream, window_s=0.0)
    await asyncio.gather(ask(shared, 1, timeout_s=0.9), ask(shared, 2, timeout_s=0.6))
    [timeout_s] = upstream.timeouts
    assert 0.5 < timeout_s <= 0.6


async def test_a_call_holds_so_many_samples_and_bytes() -> None:
    upstream = Upstream()
    shared = SharedCalls(upstream, window_s=0.0)
    await asyncio.gather(*(ask(shared, number) for number in range(1, 41)))
    assert [len(call) for call in upstream.calls] == [32, 8]
    upstream.calls.clear()
    # 40,000 bytes each: two are more than a call takes, one alone goes whatever it has.
    await asyncio.gather(
        *(ask(shared, number, size=10_000) for number in (1, 2)), ask(shared, 3, size=99_999)
    )
    assert upstream.calls == [["1"], ["2"], ["3"]]


async def test_while_a_call_is_under_way_others_wait_for_it_but_no_longer_than_the_window() -> None:
    upstream = Upstream(delay_s=0.2)
    shared = SharedCalls(upstream, window_s=0.05)

    async def later(number: int, delay_s: float) -> Resumed:
        await asyncio.sleep(delay_s)
        return await ask(shared, number)

    await asyncio.gather(ask(shared, 1), later(2, 0.01), later(3, 0.03), later(4, 0.1))
    assert upstream.calls == [["1"], ["2", "3"], ["4"]]


async def test_a_call_that_returns_sends_those_that_wait() -> None:
    upstream = Upstream(delay_s=0.05)
    shared = SharedCalls(upstream, window_s=60.0)
    first = asyncio.create_task(ask(shared, 1))
    await asyncio.sleep(0.01)
    async with asyncio.timeout(5):
        assert own(await ask(shared, 2)) == [2]
    await first


async def test_a_failure_is_that_of_all_who_shared_the_call() -> None:
    error = OffloadError("gone", OffloadReason.LATE, uplink_bytes=300)
    shared = SharedCalls(Upstream(error=error), window_s=0.0)
    found = await asyncio.gather(ask(shared, 1), ask(shared, 2, 3), return_exceptions=True)
    assert [
        (str(each), each.reason, each.uplink_bytes) for each in found if isinstance(each, OffloadError)
    ] == [
        ("gone", OffloadReason.LATE, 100),
        ("gone", OffloadReason.LATE, 200),
    ]


async def test_who_leaves_takes_nobody_along() -> None:
    upstream = Upstream(delay_s=0.05)
    shared = SharedCalls(upstream, window_s=0.0)
    before = asyncio.create_task(ask(shared, 1))
    during, stays = asyncio.create_task(ask(shared, 2)), asyncio.create_task(ask(shared, 3))
    await asyncio.sleep(0)
    before.cancel()
    await asyncio.sleep(0.02)
    during.cancel()
    assert own(await stays) == [3]
    assert upstream.calls == [["2", "3"]]
