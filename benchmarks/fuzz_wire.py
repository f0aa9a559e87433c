"""Fuzz the decoder of features with untrusted bytes: no crash, no hang, no allocation above the limit.

    pip install atheris
    python -m benchmarks.fuzz_wire --seconds 120

The fuzzer is guided by coverage (libFuzzer). It fails, and leaves the bytes in a file, if a message makes the decoder
raise anything but a FeatureError, take over a second, allocate over 64 MiB at once, or return what no block can run.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import atheris
import numpy as np
from pydantic import Field

with atheris.instrument_imports(include=["offramp.wire"]):
    from offramp.wire.codec import decode_feature, encode_feature

from offramp.bundle.manifest import Block, Levels, Tensor
from offramp.command import Command, run_command
from offramp.errors import FeatureError
from offramp.wire.v1 import wire_pb2 as pb

_SHAPE = (6, 4, 4)
_SAMPLES = 2
_HEAD = 3
_RIGHT_SHAPE = 230
_LEVELS = (
    Levels(frequencies=(900, 80, 15, 5)),
    Levels(frequencies=(1,) * 256),
    Levels(frequencies=(1, 2**24)),
)


def _block(levels: Levels | None) -> Block:
    return Block(
        number=1,
        file="block-1.onnx",
        sha256="0" * 64,
        input=Tensor(shape=(1, 1, 1), dtype="uint8"),
        feature=Tensor(shape=_SHAPE, dtype="uint8" if levels else "float32"),
        levels=levels,
        macs=1,
        exit=None,
    )


_BLOCKS = [_block(levels) for levels in (None, *_LEVELS)]


def _decode(data: bytes) -> None:
    # Three bytes choose the block, the codec and whether the shape is right; protobuf itself is fuzzed elsewhere.
    if len(data) < _HEAD:
        return
    block = _BLOCKS[data[0] % len(_BLOCKS)]
    shape = (_SAMPLES, *_SHAPE) if data[2] < _RIGHT_SHAPE else tuple(data[_HEAD : _HEAD + data[2] % 5])
    codec = cast("pb.Codec", data[1] % 6)  # known and unknown ones
    message = pb.FeatureTensor(codec=codec, shape=shape, payload=data[_HEAD:])
    try:
        feature = decode_feature(message, block=block, num_samples=_SAMPLES)
    except FeatureError:
        return
    assert feature.shape == (_SAMPLES, *_SHAPE)
    if block.levels:
        assert feature.dtype == np.uint8 and feature.max() < len(block.levels.frequencies)
    else:
        assert feature.dtype == np.float32 and np.isfinite(feature).all()


def _seeds() -> Iterator[bytes]:
    generator = np.random.default_rng(0)
    values = generator.normal(size=(_SAMPLES, *_SHAPE)).astype(np.float32)
    for codec in ("float32", "float16"):
        message = encode_feature(values, codec)
        yield bytes([0, message.codec, 0]) + message.payload
    for number, levels in enumerate(_LEVELS, start=1):
        code = generator.integers(0, len(levels.frequencies), values.shape, dtype=np.uint8)
        for name in ("ans", "packed"):
            message = encode_feature(code, name, levels)
            yield bytes([number, message.codec, 0]) + message.payload


class FuzzWire(Command):
    """Try to break the decoder.

    Example: python -m benchmarks.fuzz_wire --seconds 120
    """

    seconds: int = Field(default=120, ge=1, description="how long to try")
    seed: int = Field(default=1, ge=1, description="seed of the mutations")

    def execute(self) -> None:
        """Start with real features and mutate them until the time is up."""
        with tempfile.TemporaryDirectory() as corpus:
            for number, data in enumerate(_seeds()):
                (Path(corpus) / f"seed-{number}").write_bytes(data)
            limits = [
                "-timeout=1",
                "-rss_limit_mb=1024",
                "-malloc_limit_mb=64",
                "-max_len=4096",
                "-print_final_stats=1",
            ]
            length = [f"-max_total_time={self.seconds}", f"-seed={self.seed}"]
            atheris.Setup([sys.argv[0], corpus, *length, *limits], _decode)
            atheris.Fuzz()


if __name__ == "__main__":
    run_command(FuzzWire, sys.argv[1:], program="python -m benchmarks.fuzz_wire")
