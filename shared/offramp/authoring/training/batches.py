"""Batches of images, in an order that depends only on the seed and the epoch, not on how many processes read them.

Shapes: B samples, H x W pixels, C channels.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from offramp.authoring.data.labelled import LabelledImages
from offramp.authoring.data.photos import PhotoPixels, batch_size_for
from offramp.authoring.training.learning import epoch_seed

_MOST_WORKERS = 8


def training_batches(
    images: LabelledImages, batch_size: int, seed: int, processes: int, *, workers: int | None = None
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Pixels, uint8 (B, H, W, C), and classes (B,), in a new order in each epoch; an incomplete batch is dropped.

    Args:
        images: to train on.
        batch_size: B, over all processes together.
        seed: of the order.
        processes: how many share each batch.
        workers: processes that read photos ahead, for each of those that train; by default as many as `workers_for`
            says.
    """
    return DataLoader(
        _Images(images),
        batch_size=max(1, min(batch_size, len(images)) // processes),
        sampler=Shuffled(len(images), seed, processes),
        drop_last=True,
        # Each new iterator draws a seed for its workers. With torch's own generator, that extra draw would change what
        # augmentation and dropout draw in all epochs but a process's first, so a resumed run would differ.
        generator=torch.Generator(),
        **_reading(images, workers),
    )


def validation_batches(
    images: LabelledImages, *, workers: int | None = None
) -> DataLoader[tuple[Tensor, Tensor]]:
    """The same for all images, in their own order, in batches that take little memory whatever the images' size."""
    return DataLoader(
        _Images(images), batch_size=batch_size_for(images.pixels.shape), **_reading(images, workers)
    )


def workers_for(images: LabelledImages) -> int:
    """How many processes should read photos ahead: none if no photo needs to be decoded again."""
    if not isinstance(images.pixels, PhotoPixels) or images.pixels.is_cached:
        return 0
    return max(1, min(_MOST_WORKERS, (os.cpu_count() or 1) - 1))


def _reading(images: LabelledImages, workers: int | None) -> dict[str, Any]:
    count = workers_for(images) if workers is None else workers
    # A forked process shares the list of photos and their cache; another would have to be sent them.
    return {
        "collate_fn": _as_it_is,
        "num_workers": count,
        "multiprocessing_context": "fork" if count else None,
    }


class _Images(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, images: LabelledImages) -> None:
        self._pixels = images.pixels
        self._classes = images.classes

    def __len__(self) -> int:
        return len(self._classes)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(self._pixels[index]), torch.tensor(self._classes[index])

    def __getitems__(self, index: list[int]) -> tuple[Tensor, Tensor]:
        # One indexing operation for the whole batch.
        numbers = np.array(index)
        return torch.from_numpy(self._pixels[numbers]), torch.from_numpy(self._classes[numbers])


class Shuffled(Sampler[int]):
    """A new order in each epoch, the same whether or not the run was interrupted.

    If there are several processes, each takes its share of the order.
    """

    def __init__(self, count: int, seed: int, processes: int) -> None:
        self._count = count
        self._seed = seed
        self._processes = processes
        self._epoch = 0

    def __len__(self) -> int:
        return self._count // self._processes

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(epoch_seed(self._seed, self._epoch))
        order = torch.randperm(self._count, generator=generator)[: len(self) * self._processes]
        rank = torch.distributed.get_rank() if self._processes > 1 else 0
        return iter(order[rank :: self._processes].tolist())

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self._epoch = epoch


def _as_it_is(batch: Any) -> Any:
    return batch
