"""The machine's limit: the same decoding, blocks and exits in a loop on one core, without any server."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean, median

import onnxruntime

from benchmarks.serving.backbone import backbone_of
from benchmarks.serving.cores import one_core, pinned
from offramp.bundle import Bundle
from offramp.engine.images import decode_images
from offramp.engine.runtime import load_blocks
from offramp.engine.tier import Tier
from offramp.record import Record


class Pass(Record):
    """What one core did in some seconds; decode_ms: for a photo, on average."""

    per_second: float
    decode_ms: float


class BareLoop:
    """Answers photos in random order, one after the other."""

    def __init__(self, bundle: Bundle, thetas: Sequence[float], photos: Sequence[bytes]) -> None:
        self._preprocessing = bundle.manifest.preprocessing
        self._tier = _tier(bundle)
        self._thetas = thetas
        self._photos = _shuffled(photos)

    def run(self, seconds: float) -> Pass:
        """Answer photos on one core for so long."""
        decode_s, count = [], 0
        with pinned(one_core()):
            start = time.perf_counter()
            while (before := time.perf_counter()) < start + seconds:
                pixels = decode_images([next(self._photos)], self._preprocessing)
                decode_s.append(time.perf_counter() - before)
                self._tier.run(pixels, self._thetas)
                count += 1
            return Pass(per_second=count / (before - start), decode_ms=1000 * fmean(decode_s))


def non_exiting_ratio(bundle: Bundle, photos: Sequence[bytes], *, seconds: float) -> float:
    """Time of a sample that passes every exit, relative to the plain backbone in one piece: a ratio of medians."""
    manifest = bundle.manifest
    tier = _tier(bundle)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    whole = onnxruntime.InferenceSession(
        backbone_of(bundle).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    name = whole.get_inputs()[0].name
    never = [1.0] * (manifest.num_exits - 1)
    split_s, whole_s = [], []
    shuffled, end = _shuffled(photos), time.perf_counter() + seconds
    with pinned(one_core()):
        while time.perf_counter() < end:
            pixels = decode_images([next(shuffled)], manifest.preprocessing)
            start = time.perf_counter()
            tier.run(pixels, never)
            middle = time.perf_counter()
            whole.run(["probabilities", "confidence"], {name: pixels})
            split_s.append(middle - start)
            whole_s.append(time.perf_counter() - middle)
    return median(split_s) / median(whole_s)


def read_photos(folder: Path, count: int) -> list[bytes]:
    """The first photos of a folder."""
    return [path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()][:count]


def _tier(bundle: Bundle) -> Tier:
    return Tier(bundle.manifest, load_blocks(bundle, 1, len(bundle.manifest.blocks)), start=1)


def _shuffled(photos: Sequence[bytes]) -> Iterator[bytes]:
    numbers = random.Random(0)
    while True:
        yield from numbers.sample(photos, len(photos))
