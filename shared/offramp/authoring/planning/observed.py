"""What every way to send a sample takes and gives, for each photo of somebody's own.

Every photo is decoded and run as a node would do it, once as it is and once for each lossy way to send it. Shapes: N
photos, E exits, H x W pixels, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.authoring.evaluation.timing import block_seconds
from offramp.authoring.planning.rounding import Rounding
from offramp.bundle import Bundle, Manifest
from offramp.bundle.manifest import Payload
from offramp.engine.images import open_images
from offramp.engine.payload import decode_pixels, encode_pixels
from offramp.engine.runtime import BlockRunner, load_blocks
from offramp.errors import DataError, RequestError
from offramp.wire.codec import encode_feature

_TIMED = 40
EXACT: Payload = "exact"


@dataclass(frozen=True, eq=False)
class Answered:
    """What the exits answer: confidence and class, both (N, E)."""

    confidence: NDArray[np.float32]
    class_index: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Sending:
    """One way to send every photo: bytes (N,) of what is sent, and milliseconds (N,) to encode and to decode it.

    answered: what the exits say to what arrives; None where that is what they say to the original. features: which of
    them (N,) travel as a feature; None: no one does.
    """

    num_bytes: NDArray[np.int64]
    encode_ms: NDArray[np.float64]
    decode_ms: NDArray[np.float64]
    answered: Answered | None = None
    features: NDArray[np.bool_] | None = None


@dataclass(frozen=True, eq=False)
class Observed:
    """All that a plan is made of.

    answered: to the photos as they are. photo: as they came. pictures: what block 1 takes of them, by payload, `exact`
    among them. features: by split point and name of the precision, the one that is served first. block_ms: median of
    each block.
    """

    manifest: Manifest
    answered: Answered
    photo: Sending
    pictures: Mapping[Payload, Sending]
    features: Mapping[int, Mapping[str, Sending]]
    block_ms: NDArray[np.float64]
    all_smaller: bool

    @property
    def num_photos(self) -> int:
        """N."""
        return len(self.answered.confidence)


def observe(
    bundle: Bundle,
    photos: Sequence[Callable[[], bytes]],
    payloads: Sequence[Payload],
    *,
    advance: Callable[[int], None] = lambda _: None,
) -> Observed:
    """Run every photo, and measure what each way to send it takes.

    Args:
        bundle: verified.
        photos: each gives the bytes of a photo's file.
        payloads: lossy ways to send pictures.
        advance: called with 1 after every photo.

    Raises:
        DataError: a photo cannot be decoded.
    """
    observing = _Observing(bundle, payloads, len(photos))
    for number, read in enumerate(photos):
        try:
            observing.add(number, read())
        except RequestError as error:
            raise DataError(f"photo {number + 1} of {len(photos)}: {error}") from error
        advance(1)
    return observing.observed()


@dataclass(eq=False)
class _Growing:
    num_bytes: list[int] = field(default_factory=list)
    encode_ms: list[float] = field(default_factory=list)
    decode_ms: list[float] = field(default_factory=list)

    def add(self, num_bytes: int, encode_ms: float = 0.0, decode_ms: float = 0.0) -> None:
        self.num_bytes.append(num_bytes)
        self.encode_ms.append(encode_ms)
        self.decode_ms.append(decode_ms)

    def sending(self, answered: Answered | None = None, *, is_feature: bool = False) -> Sending:
        num_bytes = np.array(self.num_bytes)
        features = np.ones(len(num_bytes), dtype=np.bool_) if is_feature else None
        return Sending(num_bytes, np.array(self.encode_ms), np.array(self.decode_ms), answered, features)


class _Observing:
    def __init__(self, bundle: Bundle, payloads: Sequence[Payload], count: int) -> None:
        self._manifest = manifest = bundle.manifest
        self._blocks = load_blocks(bundle, 1, len(manifest.blocks))
        self._splits = range(2, len(manifest.blocks) + 1)
        self._rounding = {split: Rounding.of(manifest.blocks[split - 2]) for split in self._splits}
        shape = (count, manifest.num_exits)
        self._answers = {
            key: Answered(np.zeros(shape, np.float32), np.zeros(shape, np.int64))
            for key in (
                EXACT,
                *payloads,
                *((split, name) for split in self._splits for name in self._rounding[split].names),
            )
        }
        self._payloads = payloads
        self._photo = _Growing()
        self._pictures = {payload: _Growing() for payload in (EXACT, *payloads)}
        self._features = {
            split: {name: _Growing() for name in ("", *self._rounding[split].names)} for split in self._splits
        }
        self._timed: list[NDArray[np.uint8]] = []
        self._all_smaller = True

    def add(self, number: int, file: bytes) -> None:
        """Observe one photo."""
        preprocessing = self._manifest.preprocessing
        started = perf_counter()
        opened = open_images([file])
        pixels: NDArray[np.uint8] = opened.decode(preprocessing)[0]
        self._photo.add(len(file) if opened.files[0] else 0, 0.0, _ms_since(started))
        self._all_smaller &= opened.num_pixels[0] < preprocessing.height * preprocessing.width
        if len(self._timed) < _TIMED:
            self._timed.append(pixels)
        features = self._run(EXACT, number, pixels, first_block=1)
        for payload in (EXACT, *self._payloads):
            self._picture(number, payload, pixels)
        for split in self._splits:
            self._feature(number, split, features[split - 1])

    def _picture(self, number: int, payload: Payload, pixels_HWC: NDArray[np.uint8]) -> None:
        started = perf_counter()
        encoded = encode_pixels(pixels_HWC, payload)
        encode_ms, started = _ms_since(started), perf_counter()
        arrived = decode_pixels(encoded, self._manifest.preprocessing)
        self._pictures[payload].add(len(encoded), encode_ms, _ms_since(started))
        if payload != EXACT:
            self._run(payload, number, arrived, first_block=1)

    def _feature(self, number: int, split: int, feature: NDArray[Any]) -> None:
        block = self._manifest.blocks[split - 2]
        started = perf_counter()
        encoded = encode_feature(feature, self._manifest.codec_at(split), block.levels).payload
        self._features[split][""].add(len(encoded), _ms_since(started))
        for name in self._rounding[split].names:
            num_bytes, arrived = self._rounding[split].sent(name, feature)
            self._features[split][name].add(num_bytes)
            self._run((split, name), number, arrived[0], first_block=split)

    def _run(
        self, key: Any, number: int, sample: NDArray[Any], *, first_block: int
    ) -> Mapping[int, NDArray[Any]]:
        """Run the blocks from one on, keep what the exits answer, and return the features by block."""
        answered, batch, features = self._answers[key], sample[np.newaxis], {}
        for block, described in zip(
            self._blocks[first_block - 1 :], self._manifest.blocks[first_block - 1 :], strict=True
        ):
            output = block.run(batch)
            if described.exit and output.probabilities is not None and output.confidence is not None:
                answered.confidence[number, described.exit.number - 1] = output.verdicts[0][0]
                answered.class_index[number, described.exit.number - 1] = output.probabilities[0].argmax()
            if output.feature is not None:
                batch = features[described.number] = output.feature
        return features

    def observed(self) -> Observed:
        """All of it."""
        return Observed(
            manifest=self._manifest,
            answered=self._answers[EXACT],
            photo=self._photo.sending(),
            pictures={
                payload: found.sending(None if payload == EXACT else self._answers[payload])
                for payload, found in self._pictures.items()
            },
            features={
                split: {
                    name: found.sending(self._answers[split, name] if name else None, is_feature=True)
                    for name, found in by_name.items()
                }
                for split, by_name in self._features.items()
            },
            block_ms=_block_ms(self._blocks, np.stack(self._timed)),
            all_smaller=self._all_smaller,
        )


def _block_ms(blocks: Sequence[BlockRunner], pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    median_ms: NDArray[np.float64] = 1000 * np.median(block_seconds(blocks, pixels, rounds=100), axis=0)
    return median_ms


def _ms_since(started: float) -> float:
    return (perf_counter() - started) * 1000
