"""A set of images, each with the truth about it: its class, its labels or its value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from offramp.authoring.data.photos import PhotoPixels, Pixels, digest_of
from offramp.errors import DataError

Part = Literal["train", "validation", "test"]


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images and the truth about each, in the order of the files.

    pixels: uint8 (N, H, W, C), in memory or decoded when they are asked for. classes: int64 (N,), index into `labels`;
    or, for several labels, uint8 (N, K) that says which ones each image has; or, for a quantity, float32 (N,).
    labels: None if the files have only class numbers or values. sources: a name for each sample, by which to find it
    again. file_bytes: int64 (N,), size of the file that a client would send, 0 if there is none; None if no sample has
    one.
    """

    pixels: Pixels
    classes: NDArray[Any]
    labels: tuple[str, ...] | None
    sources: tuple[str, ...]
    file_bytes: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.classes)

    def take(self, index: NDArray[np.int64]) -> LabelledImages:
        """The samples at these positions, in that order."""
        sources = tuple(self.sources[i] for i in index)
        file_bytes = None if self.file_bytes is None else self.file_bytes[index]
        return LabelledImages(
            self.pixels.take(index, axis=0), self.classes[index], self.labels, sources, file_bytes
        )

    def fingerprint(self) -> str:
        """SHA-256 of all pixels and classes; it changes if a single bit does."""
        digest = self.pixels.digest() if isinstance(self.pixels, PhotoPixels) else digest_of(self.pixels)
        exact = "<f4" if self.classes.dtype.kind == "f" else "<i8"
        digest.update(self.classes.astype(exact).tobytes())
        return str(digest.hexdigest())

    def classes_as(self, labels: tuple[str, ...]) -> NDArray[Any]:
        """Classes numbered as in `labels`, whose order may differ from that of the files; values stay as they are.

        Raises:
            DataError: a class of this set is not one of `labels`.
        """
        if self.classes.dtype.kind == "f":
            return self.classes
        if self.labels is None:
            highest = int(self.classes.max(initial=0))
            if highest >= len(labels):
                raise DataError(
                    f"the data has class {highest}, but the network knows only 0 to {len(labels) - 1}"
                )
            return self.classes
        unknown = [label for label in self.labels if label not in labels]
        if unknown:
            raise DataError(
                f"the data has class '{unknown[0]}', but the network knows only {', '.join(labels)}; "
                "name the folders after its labels"
            )
        numbers = np.array([labels.index(label) for label in self.labels], dtype=np.int64)
        if self.classes.ndim == 1:
            numbered: NDArray[np.int64] = numbers[self.classes]
            return numbered
        given = np.zeros((len(self), len(labels)), dtype=np.uint8)
        given[:, numbers] = self.classes
        return given
