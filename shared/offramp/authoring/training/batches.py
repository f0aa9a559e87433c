"""Batches from images in memory, in an order that depends only on the seed and the epoch.

Shapes: B samples, H x W pixels, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from offramp.authoring.data.labelled import LabelledImages
from offramp.authoring.training.learning import epoch_seed

_VALIDATION_BATCH = 1000


def training_batches(
    images: LabelledImages, batch_size: int, seed: int, processes: int
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Pixels, uint8 (B, H, W, C), and classes (B,), in a new order in each epoch; an incomplete batch is dropped.

    Args:
        images: to train on.
        batch_size: B, over all processes together.
        seed: of the order.
        processes: how many share each batch.
    """
    return DataLoader(
        _Images(images),
        batch_size=max(1, min(batch_size, len(images)) // processes),
        sampler=Shuffled(len(images), seed, processes),
        drop_last=True,
        collate_fn=_as_it_is,
        # Each new iterator draws a seed for its workers. With torch's own generator, that extra draw would change what
        # augmentation and dropout draw in all epochs but a process's first, so a resumed run would differ.
        generator=torch.Generator(),
    )


def validation_batches(images: LabelledImages) -> DataLoader[tuple[Tensor, Tensor]]:
    """The same for all images, in their own order."""
    return DataLoader(_Images(images), batch_size=_VALIDATION_BATCH, collate_fn=_as_it_is)


class _Images(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, images: LabelledImages) -> None:
        self._pixels = torch.from_numpy(images.pixels)
        self._classes = torch.from_numpy(images.classes)

    def __len__(self) -> int:
        return len(self._classes)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._pixels[index], self._classes[index]

    def __getitems__(self, index: list[int]) -> tuple[Tensor, Tensor]:
        # One indexing operation for the whole batch, as the images are in memory.
        return self._pixels[index], self._classes[index]


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
