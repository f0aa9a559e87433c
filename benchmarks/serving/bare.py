"""The machine's limit: the same decoding, blocks and exits in a loop, without any server."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import onnxruntime

from benchmarks.serving.backbone import backbone_of
from offramp.bundle import Bundle
from offramp.engine.images import decode_images
from offramp.engine.runtime import load_blocks
from offramp.engine.tier import Tier


def bare_per_second(
    bundle: Bundle, thetas: Sequence[float], photos: Sequence[bytes], *, rounds: int
) -> float:
    """Photos a second that one core can answer: the median of `rounds` passes over all of them."""
    tier = _tier(bundle)
    spent = []
    for _ in range(rounds):
        before = time.perf_counter()
        for photo in photos:
            tier.run(decode_images([photo], bundle.manifest.preprocessing), thetas)
        spent.append(time.perf_counter() - before)
    return len(photos) / median(spent)


def non_exiting_ratio(bundle: Bundle, photos: Sequence[bytes], *, rounds: int) -> float:
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
    for _ in range(rounds):
        for photo in photos:
            pixels = decode_images([photo], manifest.preprocessing)
            start = time.perf_counter()
            tier.run(pixels, never)
            middle = time.perf_counter()
            whole.run(["probabilities", "confidence"], {name: pixels})
            split_s.append(middle - start)
            whole_s.append(time.perf_counter() - middle)
    return median(split_s) / median(whole_s)


def _tier(bundle: Bundle) -> Tier:
    return Tier(bundle.manifest, load_blocks(bundle, 1, len(bundle.manifest.blocks)), start=1)


def read_photos(folder: Path, count: int) -> list[bytes]:
    """The first photos of a folder."""
    return [path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()][:count]
