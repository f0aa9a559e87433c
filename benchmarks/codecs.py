"""What each codec of features takes, in bytes and in time, beside the blocks that make and take the feature.

    python -m benchmarks.codecs models/b-lite0-grocery-int8 --photos samples/grocery

One photo at a time, on one thread. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from statistics import mean, median
from time import perf_counter
from typing import Any

from pydantic import Field
from pydantic_settings import CliPositionalArg
from rich.console import Console
from rich.table import Table

from offramp.bundle import Bundle, load_bundle
from offramp.bundle.manifest import Codec
from offramp.command import Command, run_command
from offramp.engine.images import open_images
from offramp.engine.runtime import load_blocks
from offramp.errors import ConfigError
from offramp.wire.codec import decode_feature, encode_feature

_OF_LEVELS: tuple[Codec, ...] = ("packed", "ans", "zstd")
_OF_FLOATS: tuple[Codec, ...] = ("float32", "float16")
_COLUMNS = ("bundle", "codec", "bytes, mean", "encode µs", "decode µs", "both, of the edge's blocks")


class Codecs(Command):
    """Time every codec on the features that each bundle sends.

    Example: python -m benchmarks.codecs models/b-lite0-grocery-int8 --photos samples/grocery
    """

    bundles: CliPositionalArg[list[Path]] = Field(description="directories of bundles")
    photos: Path = Field(description="folder of photos")
    count: int = Field(default=100, ge=1, description="most photos to take")

    def execute(self) -> None:
        """Encode and decode, and print the table; the codec that a bundle uses has a star."""
        photos = [path.read_bytes() for path in sorted(self.photos.rglob("*.*")) if path.is_file()]
        if not photos:
            raise ConfigError(f"no photo in {self.photos}; give a folder with some")
        photos = photos[:: max(1, len(photos) // self.count)][: self.count]
        table = Table(*_COLUMNS, title=f"{len(photos)} photos, medians")
        for path in self.bundles:
            for row in _rows(load_bundle(path), photos):
                table.add_row(*row)
        Console().print(table)


def _rows(bundle: Bundle, photos: list[bytes]) -> Iterator[tuple[str, ...]]:
    manifest = bundle.manifest
    split_point = manifest.operating_point.split_point
    blocks = load_blocks(bundle, 1, split_point - 1)
    features: list[Any] = []
    compute_s = []
    for photo in photos:
        batch: Any = open_images([photo]).decode(manifest.preprocessing)
        begun = perf_counter()
        for block in blocks:
            batch = block.run(batch).feature
        compute_s.append(perf_counter() - begun)
        features.append(batch)
    made_by = manifest.blocks[split_point - 2]
    used = manifest.codec_at(split_point)
    for codec in _OF_LEVELS if made_by.levels else _OF_FLOATS:
        encoded = [encode_feature(feature, codec, made_by.levels) for feature in features]
        encode_s = _seconds(encode_feature, [(feature, codec, made_by.levels) for feature in features])
        decode_s = _seconds(
            lambda message: decode_feature(message, block=made_by, num_samples=1),
            [(message,) for message in encoded],
        )
        yield (
            manifest.name,
            f"{codec}{' *' * (codec == used)}",
            f"{mean(len(each.payload) for each in encoded):.0f}",
            f"{1e6 * encode_s:.1f}",
            f"{1e6 * decode_s:.1f}",
            f"{(encode_s + decode_s) / median(compute_s):.1%}",
        )


def _seconds(does: Callable[..., object], calls: list[tuple[Any, ...]]) -> float:
    """Median time of a call, all of them in turn."""
    times = []
    for arguments in islice((each for _ in range(5) for each in calls), 500):
        begun = perf_counter()
        does(*arguments)
        times.append(perf_counter() - begun)
    return median(times)


if __name__ == "__main__":
    run_command(Codecs, sys.argv[1:], program="python -m benchmarks.codecs")
