"""How much of a node's memory calls may hold that send one message after another."""

from __future__ import annotations

import asyncio
from typing import Any

from cloud_node.room import Limits, Room
from tests.test_cloud_door import Arriving


def room(**changes: Any) -> Room:
    limits = {"message_bytes": 100, "buffered_bytes": 800, "arriving": 8, "streams": 8, "arrival_s": 5}
    return Room(Limits(**{**limits, **changes}))


async def end(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_they_take_half_of_the_room_and_a_quarter_for_one_host() -> None:
    space = room()
    waiting = [asyncio.create_task(space.following(Arriving(f"10.0.0.{number // 3}"))) for number in range(9)]
    await asyncio.sleep(0)
    assert [task.done() for task in waiting] == [False, False, True] * 2 + [True] * 3
    assert space.held_bytes == 400
    await end(*waiting)
    assert space.held_bytes == 0


async def test_the_longest_silent_one_makes_room_for_a_call_that_would_have_to_wait() -> None:
    space = room()
    silent = [asyncio.create_task(space.following(Arriving(f"10.0.0.{number}"))) for number in range(3)]
    await asyncio.sleep(0)
    held = [
        asyncio.create_task(space.arrived(Arriving(f"10.0.1.{number}"), has_place=False))
        for number in range(5)
    ]
    await asyncio.sleep(0)
    assert space.held_bytes == 800 and not any(task.done() for task in silent)
    one_more = Arriving("10.0.0.9")
    one_more.data.set_result(bytes(10))
    async with asyncio.timeout(1):
        assert len(await space.arrived(one_more, has_place=False)) == 10
    assert [task.done() for task in silent] == [True, False, False]
    await end(*silent, *held)
    assert space.held_bytes == 10


async def test_a_host_that_has_used_up_its_share_ends_no_call_of_others() -> None:
    space = room()
    silent = asyncio.create_task(space.following(Arriving("10.0.0.1")))
    held = [asyncio.create_task(space.arrived(Arriving("10.0.0.2"), has_place=True)) for _ in range(20)]
    await asyncio.sleep(0.01)
    assert space.waiting == 16 and not silent.done()
    another = asyncio.create_task(space.following(Arriving("10.0.0.1")))
    await asyncio.sleep(0.01)
    assert not another.done()
    await end(silent, another, *held)
    assert space.held_bytes == 0


async def test_one_that_is_silent_for_long_is_ended_and_none_begins_at_the_end() -> None:
    space = room(arrival_s=0.05)
    async with asyncio.timeout(1):
        assert await space.following(Arriving("10.0.0.1")) is None
    space.close()
    assert await space.following(Arriving("10.0.0.1")) is None and space.held_bytes == 0


async def test_a_message_counts_until_it_is_closed_or_the_next_one_is_asked_for() -> None:
    space, context = room(), Arriving("10.0.0.1")
    context.data.set_result(bytes(30))
    messages = space.messages(context, len)
    assert await anext(messages) == 30 and space.held_bytes == 30
    messages.close()
    assert space.held_bytes == 0
    assert await anext(messages) == 30
    waiting = Arriving("10.0.0.1")
    context.data = waiting.data
    following = asyncio.ensure_future(anext(messages))
    await asyncio.sleep(0)
    assert space.held_bytes == 100
    waiting.data.set_result(bytes(7))
    assert await following == 7 and space.held_bytes == 7
    messages.close()
    assert space.held_bytes == 0
