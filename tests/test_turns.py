"""Who is decoded next, if many images wait: in order, but a photo need not wait for images that are far larger."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from offramp.errors import OverloadError
from offramp.serving.decoding.turns import SMALL_PIXELS, Turns

LARGE = 10 * SMALL_PIXELS


def turns_of(slots: int = 2, **given: Any) -> Turns:
    return Turns(slots, **{"large_pixels": LARGE, "max_pixels": 100 * LARGE, "setting": "S", **given})


async def order(turns: Turns, arriving: list[int]) -> list[int]:
    """Which of images of so many pixels, all arriving while another one is decoded, is admitted when."""
    admitted: list[int] = []

    async def one(number: int, pixels: int) -> None:
        async with turns.turn(pixels):
            admitted.append(number)
            await asyncio.sleep(0)

    async with turns.turn(1):
        waiting = [asyncio.create_task(one(number, pixels)) for number, pixels in enumerate(arriving)]
        await asyncio.sleep(0)
    await asyncio.gather(*waiting)
    return admitted


async def test_in_the_order_of_arrival() -> None:
    assert await order(turns_of(1), [5, 5, 5]) == [0, 1, 2]


async def test_a_photo_passes_a_far_larger_image() -> None:
    assert await order(turns_of(1), [LARGE, 1000, LARGE // 5]) == [1, 2, 0]


async def test_large_ones_leave_a_decoder_to_small_ones() -> None:
    turns = turns_of(2, large_pixels=100 * LARGE)
    async with turns.turn(LARGE):
        second = asyncio.create_task(held(turns, LARGE))
        async with asyncio.timeout(1), turns.turn(1000):
            assert not second.done()
    assert await second


async def test_large_ones_share_their_pixels() -> None:
    turns = turns_of(8)
    async with turns.turn(LARGE // 2), turns.turn(LARGE // 2):
        third = asyncio.create_task(held(turns, LARGE // 2))
        await asyncio.sleep(0.01)
        assert not third.done()
    assert await third


async def test_one_that_has_more_than_all_may_have_is_decoded_alone() -> None:
    assert await held(turns_of(2), 3 * LARGE)


async def test_more_than_may_wait_are_refused_large_ones_first() -> None:
    turns = turns_of(1, max_pixels=4 * LARGE)
    async with turns.turn(LARGE):
        waiting = [asyncio.create_task(held(turns, LARGE)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(
            OverloadError, match=r"60000000 pixels wait .* limit of 60000000 \(three quarters of S"
        ):
            await held(turns, LARGE)
        small = asyncio.create_task(held(turns, 1000))
    assert all(await asyncio.gather(small, *waiting))


async def test_whoever_leaves_makes_room() -> None:
    turns = turns_of(1, max_pixels=2 * LARGE)
    async with turns.turn(1):
        waiting = asyncio.create_task(held(turns, LARGE))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.sleep(0)
        after = asyncio.create_task(held(turns, LARGE))
    assert await after


async def held(turns: Turns, pixels: int) -> bool:
    async with turns.turn(pixels):
        return True
