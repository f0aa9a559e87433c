"""Which calls run together, in what order, and where."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from offramp.engine.runtime import BlockOutput
from offramp.engine.tier import Answer, Tier
from offramp.errors import ExpiredError, RequestError
from offramp.serving import batching, node
from offramp.serving.batching import Batcher, Ran
from offramp.serving.call import Call, Sample
from offramp.serving.node import Node
from tests.builders import manifest_with

# More than what may keep the loop from its sockets.
_SLOW_S = 0.02


class Block:
    """The last block: remembers each batch, and on which thread it ran; a sample's confidence is its own number."""

    def __init__(self, *, takes_s: float = 0.0) -> None:
        self.batches: list[list[int]] = []
        self.threads: list[int] = []
        self._takes_s = takes_s

    def run(self, batch: NDArray[Any]) -> BlockOutput:
        time.sleep(self._takes_s)
        self.batches.append(batch[:, 0].astype(int).tolist())
        self.threads.append(threading.get_ident())
        confidence = (batch[:, 0] / 1000).astype(np.float32)
        return BlockOutput(None, np.full((len(batch), 2), 0.5, dtype=np.float32), confidence)


class Started:
    """Batchers of one test, closed behind it."""

    def __init__(self) -> None:
        self._batchers: list[Batcher] = []

    def __call__(self, block: Block, **given: Any) -> Batcher:
        tier = Tier(manifest_with([True]), [block], start=1)
        self._batchers.append(Batcher(tier, **{"workers": 1, "at_once_s": _SLOW_S / 2, **given}))
        return self._batchers[-1]

    def close(self) -> None:
        for batcher in self._batchers:
            batcher.close()


@pytest.fixture
def started() -> Iterator[Started]:
    batchers = Started()
    yield batchers
    batchers.close()


def call(*numbers: int, load: Callable[[], NDArray[Any]] | None = None, **given: Any) -> Call:
    pixels = np.array(numbers, dtype=np.float32)[:, np.newaxis]
    fields: dict[str, Any] = {"thetas": (), "first_block": 1, "is_light": True}
    samples = [Sample(str(number)) for number in numbers]
    return Call(samples=samples, load=load or (lambda: pixels), **{**fields, **given})


def numbers_in(ran: Ran) -> list[int]:
    return [round(outcome.confidence * 1000) for outcome in ran.outcomes if isinstance(outcome, Answer)]


async def settled(batcher: Batcher) -> None:
    """Let it learn what a sample takes; the first few take longer."""
    for _ in range(40):
        await batcher.run(call(0))


def new_batches(block: Block) -> list[list[int]]:
    return [batch for batch in block.batches if batch != [0]]


async def together(batcher: Batcher, calls: Sequence[Call]) -> list[Ran | BaseException]:
    return await asyncio.gather(*(batcher.run(each) for each in calls), return_exceptions=True)


async def test_what_arrives_together_runs_together_and_everyone_gets_their_own(started: Started) -> None:
    block = Block()
    batcher = started(block, at_once_s=1.0)  # however slow the machine is just now
    await settled(batcher)
    found = await together(batcher, [call(1, 2), call(3), call(4, 5, 6)])
    assert new_batches(block) == [[1, 2, 3, 4, 5, 6]]
    assert [numbers_in(ran) for ran in found if isinstance(ran, Ran)] == [[1, 2], [3], [4, 5, 6]]


async def test_the_soonest_deadline_comes_first(started: Started) -> None:
    block = Block()
    batcher = started(block, max_batch=1)
    await settled(batcher)
    now = time.monotonic()
    await together(
        batcher, [call(1), call(2, deadline=now + 50), call(3, deadline=now + 20), call(4, deadline=now + 90)]
    )
    assert new_batches(block) == [[3], [2], [4], [1]]


async def test_no_batch_is_larger_than_asked(started: Started) -> None:
    block = Block()
    batcher = started(block, max_batch=3)
    await settled(batcher)
    await together(batcher, [call(number) for number in range(1, 8)])
    assert new_batches(block) == [[1, 2, 3], [4, 5, 6], [7]]


@pytest.mark.parametrize(
    ("gaining", "batches"), [(1, [[1], [2], [3], [4]]), (2, [[1], [2, 3], [4]]), (9, [[1], [2, 3, 4]])]
)
async def test_where_batches_gain_they_grow_while_the_one_before_runs(
    started: Started, gaining: int, batches: list[list[int]]
) -> None:
    block = Block(takes_s=_SLOW_S)
    batcher = started(block, gaining=gaining)
    first = asyncio.create_task(batcher.run(call(1)))
    await asyncio.sleep(_SLOW_S / 4)
    await asyncio.gather(first, together(batcher, [call(2), call(3), call(4)]))
    assert block.batches == batches


async def test_calls_with_other_thetas_do_not_share_a_batch(started: Started) -> None:
    block = Block()
    batcher = started(block)
    await settled(batcher)
    await together(batcher, [call(1), call(2), call(3, thetas=(0.5,)), call(4)])
    assert new_batches(block) == [[1, 2], [3], [4]]


async def test_a_call_whose_deadline_has_passed_costs_nothing(started: Started) -> None:
    block = Block()
    batcher = started(block)
    await settled(batcher)
    late, fine = await together(batcher, [call(1, deadline=time.monotonic() - 1), call(2)])
    assert isinstance(late, ExpiredError)
    assert isinstance(fine, Ran) and new_batches(block) == [[2]]


async def test_a_call_nobody_waits_for_any_more_is_dropped(started: Started) -> None:
    block = Block(takes_s=_SLOW_S)
    batcher = started(block)
    running = asyncio.create_task(batcher.run(call(1)))
    await asyncio.sleep(_SLOW_S / 4)
    given_up = asyncio.create_task(batcher.run(call(2)))
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.gather(running, batcher.run(call(3)))
    assert block.batches == [[1], [3]]


async def test_a_call_that_cannot_be_decoded_harms_no_other(started: Started) -> None:
    def damaged() -> NDArray[Any]:
        raise RequestError("damaged")

    block = Block()
    batcher = started(block)
    await settled(batcher)
    first, second, third = await together(batcher, [call(1), call(2, load=damaged), call(3)])
    assert isinstance(second, RequestError)
    assert isinstance(first, Ran) and isinstance(third, Ran)
    assert (numbers_in(first), numbers_in(third)) == ([1], [3])


class Panic(BaseException):
    """As an extension in Rust raises it, which is no `Exception`."""


@pytest.mark.parametrize("takes_s", [0.0, _SLOW_S])
@pytest.mark.parametrize("error", [RuntimeError("no memory"), Panic()])
async def test_a_block_that_fails_fails_its_calls_and_no_later_one(
    started: Started, takes_s: float, error: BaseException
) -> None:
    class Failing(Block):
        def run(self, batch: NDArray[Any]) -> BlockOutput:
            if batch[0, 0] == 1:
                raise error
            return super().run(batch)

    batcher = started(Failing(takes_s=takes_s))
    await settled(batcher)
    [failed] = await together(batcher, [call(1)])
    assert isinstance(failed, RuntimeError) and error in (failed, failed.__cause__)
    assert numbers_in(await batcher.run(call(2))) == [2]


async def test_what_is_short_runs_on_the_loop_once_that_is_known(started: Started) -> None:
    block = Block()
    batcher = started(block)
    await settled(batcher)
    await batcher.run(call(1))
    assert block.threads[0] != threading.get_ident() == block.threads[-1]


async def test_one_sample_runs_on_the_loop_however_much_larger_batches_gain(started: Started) -> None:
    block = Block(takes_s=_SLOW_S / 4)
    batcher = started(block, gaining=32)
    await settled(batcher)
    await batcher.run(call(1))
    assert block.threads[-1] == threading.get_ident()


async def test_what_is_long_or_hard_to_decode_runs_on_a_worker(started: Started) -> None:
    slow, short = Block(takes_s=_SLOW_S), Block()
    for block, is_light in ((slow, True), (short, False)):
        batcher = started(block)
        await settled(batcher)
        await batcher.run(call(1, is_light=is_light))
        assert block.threads[-1] != threading.get_ident()


async def test_what_is_long_is_not_made_to_wait_for_company(started: Started) -> None:
    block = Block(takes_s=_SLOW_S)
    batcher = started(block)
    await settled(batcher)
    await together(batcher, [call(1), call(2)])
    assert new_batches(block) == [[1], [2]]


async def test_a_window_gathers_what_comes_apart(started: Started) -> None:
    block = Block(takes_s=_SLOW_S)
    batcher = started(block, window_s=0.2)
    first = asyncio.create_task(batcher.run(call(1)))
    await asyncio.sleep(0.02)
    await asyncio.gather(first, batcher.run(call(2)))
    assert block.batches == [[1, 2]]


async def test_closing_cancels_what_waits(started: Started) -> None:
    block = Block(takes_s=_SLOW_S)
    batcher = started(block)
    running = asyncio.create_task(batcher.run(call(1)))
    await asyncio.sleep(_SLOW_S / 4)
    waiting = asyncio.create_task(batcher.run(call(2)))
    await asyncio.sleep(0)
    batcher.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert numbers_in(await running) == [1]


async def test_a_worker_that_is_stuck_is_told_of_and_does_not_keep_the_node_from_ending(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "_LAST_S", 0.1)
    monkeypatch.setattr(node, "_STUCK_S", 0.05)
    freed = threading.Event()

    def stuck() -> NDArray[Any]:
        freed.wait(60)
        return np.zeros((1, 1), np.float32)

    batcher = started(Block())
    holder = SimpleNamespace(_batcher=batcher)
    assert batcher.longest_s == 0
    running = asyncio.create_task(batcher.run(call(1, load=stuck, is_light=False)))
    await asyncio.sleep(0.1)
    assert "busy with one batch" in str(Node.trouble.__get__(holder))
    before = time.perf_counter()
    batcher.close()
    assert time.perf_counter() - before < 1
    freed.set()
    running.cancel()
