"""Batches of cached features, in an order that depends only on the seed and the epoch.

Shapes: N photos, V views of each, B samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from offramp.authoring.training.batches import Shuffled
from offramp.authoring.training.features import CachedPart

_Batch = tuple[dict[str, Tensor], Tensor]
_VALUES_AT_ONCE = 2**25  # of a validation batch
_LARGEST_BATCH = 1000


def training_features(part: CachedPart, batch_size: int, seed: int, processes: int) -> DataLoader[_Batch]:
    """Features (B, …) by name and classes (B,); each epoch takes one view of every photo, and another the next time.

    Args:
        part: to train on.
        batch_size: B, over all processes together.
        seed: of the order, which is that of `training_batches`.
        processes: how many share each batch.
    """
    count = len(part.classes)
    return DataLoader(
        _Features(part),
        batch_size=max(1, min(batch_size, count) // processes),
        sampler=_OneView(Shuffled(count, seed, processes), count, part.views),
        drop_last=True,
        collate_fn=_as_it_is,
        generator=torch.Generator(),  # as in `training_batches`
    )


def validation_features(part: CachedPart) -> DataLoader[_Batch]:
    """The same for all photos, in their own order."""
    values = sum(math.prod(file.shape) for file in part.files.values())
    batch_size = max(1, min(_LARGEST_BATCH, _VALUES_AT_ONCE // values))
    return DataLoader(_Features(part), batch_size=batch_size, collate_fn=_as_it_is)


class _Features(Dataset[_Batch]):
    def __init__(self, part: CachedPart) -> None:
        self._files = part.files
        self._classes = torch.from_numpy(part.classes)
        self._rows = part.views * len(part.classes)

    def __len__(self) -> int:
        return self._rows

    def __getitems__(self, rows: list[int]) -> _Batch:
        features = {name: torch.from_numpy(file.read(rows)).float() for name, file in self._files.items()}
        return features, self._classes[torch.tensor(rows) % len(self._classes)]


class _OneView(Sampler[int]):
    """One row for every photo: its view changes from epoch to epoch, and neighbours have different ones."""

    def __init__(self, order: Shuffled, count: int, views: int) -> None:
        self._order = order
        self._count = count
        self._views = views
        self._epoch = 0

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[int]:
        for photo in self._order:
            yield photo + self._count * ((self._epoch + photo) % self._views)

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self._epoch = epoch
        self._order.set_epoch(epoch)


def _as_it_is(batch: Any) -> Any:
    return batch
