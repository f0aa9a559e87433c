"""Groups items within limits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def portions(sized: Iterable[tuple[Item, tuple[int, ...]]], limit: tuple[int, ...]) -> Iterator[list[Item]]:
    """Group items, in order, so that no group exceeds a limit; an item that is too large gets a group of its own.

    Args:
        sized: items, each with as many sizes as there are limits.
        limit: largest sum of each size over a group.
    """
    portion: list[Item] = []
    filled = (0,) * len(limit)
    for item, sizes in sized:
        together = tuple(map(sum, zip(filled, sizes, strict=True)))
        if portion and any(size > most for size, most in zip(together, limit, strict=True)):
            yield portion
            portion, together = [], sizes
        portion.append(item)
        filled = together
    if portion:
        yield portion
