"""Feature tensors over the wire: what goes in comes out, and nothing malformed comes in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from offramp.bundle.manifest import Block, Codec, Levels, Tensor
from offramp.errors import FeatureError
from offramp.wire.codec import codec_for_levels, decode_feature, encode_feature, expected_bytes, most_bytes
from offramp.wire.v1 import wire_pb2 as pb

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
FEATURES = st.tuples(st.integers(0, 4), st.integers(1, 5), st.integers(1, 3)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=FINITE)
)


def decoded(message: pb.FeatureTensor, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return decode_feature(message, block=block_of(shape[1:]), num_samples=shape[0])


def block_of(shape: tuple[int, ...], levels: Levels | None = None) -> Block:
    """A block that hands on features of that shape."""
    return Block(
        number=1,
        file="block-1.onnx",
        sha256="0" * 64,
        input=Tensor(shape=(1, 1, 1), dtype="uint8"),
        feature=Tensor(shape=shape, dtype="uint8" if levels else "float32"),
        levels=levels,
        macs=1,
        exit=None,
    )


@given(FEATURES)
def test_float32_comes_out_as_it_went_in(feature: NDArray[np.float32]) -> None:
    found = decoded(encode_feature(feature, "float32"), feature.shape)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, feature)


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-45, -1e-45, 1.1754942e-38, 3.4028235e38, -3.4028235e38])
def test_the_ends_of_float32_keep_every_bit(value: float) -> None:
    feature = np.full((1, 2), value, dtype=np.float32)
    assert decoded(encode_feature(feature, "float32"), (1, 2)).tobytes() == feature.tobytes()


@pytest.mark.parametrize(
    ("value", "expected"), [(1e-8, 0.0), (2**-24, 2**-24), (1e38, 65504), (-1e38, -65504)]
)
def test_what_float16_cannot_hold_becomes_the_nearest_it_can(value: float, expected: float) -> None:
    feature = np.full((1, 2), value, dtype=np.float32)
    assert decoded(encode_feature(feature, "float16"), (1, 2)).tolist() == [[expected, expected]]


@pytest.mark.parametrize("codec", ["float32", "float16"])
@pytest.mark.parametrize("count", [0, 1, 64])
def test_a_batch_may_hold_no_sample_or_many(codec: Codec, count: int) -> None:
    feature = np.arange(count * 6, dtype=np.float32).reshape(count, 2, 3)
    np.testing.assert_array_equal(decoded(encode_feature(feature, codec), feature.shape), feature)


@given(FEATURES)
def test_float16_comes_out_within_its_precision(feature: NDArray[np.float32]) -> None:
    found = decoded(encode_feature(feature, "float16"), feature.shape)
    # Half precision has 11 significant bits; below 2^-14 its steps are 2^-24; beyond 65504 it clips.
    np.testing.assert_allclose(found, feature.clip(-65504, 65504), rtol=2**-11, atol=2**-25)


def test_a_batch_costs_its_values_and_nothing_more() -> None:
    feature = np.zeros((3, 4, 2), dtype=np.float32)
    assert len(encode_feature(feature, "float32").payload) == 3 * 4 * 2 * 4
    assert len(encode_feature(feature, "float16").payload) == 3 * 4 * 2 * 2


def test_a_slice_of_a_larger_array_is_sent_as_it_reads() -> None:
    feature = np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(0, 2, 1)
    np.testing.assert_array_equal(decoded(encode_feature(feature, "float32"), feature.shape), feature)


GOOD: dict[str, Any] = {"codec": pb.CODEC_FLOAT32, "shape": (1, 2), "payload": b"\0" * 8}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"codec": pb.CODEC_UNSPECIFIED}, "codec 0"),
        ({"codec": 77}, "codec 77"),
        ({"shape": ()}, r"shape \(\), expected \(1, 2\)"),
        ({"shape": (1, 3)}, r"shape \(1, 3\)"),
        ({"shape": (2, 1)}, r"shape \(2, 1\)"),
        ({"shape": (2**32 - 1,) * 4}, "4294967295"),
        ({"payload": b""}, "needs 8 bytes, got 0"),
        ({"payload": b"\0" * 7}, "needs 8 bytes, got 7"),
        ({"payload": b"\0" * 9}, "needs 8 bytes, got 9"),
        ({"codec": pb.CODEC_FLOAT16}, "needs 4 bytes, got 8"),
        ({"payload": np.array([0, np.nan], "<f4").tobytes()}, "NaN or infinite"),
        ({"payload": np.array([0, -np.inf], "<f4").tobytes()}, "NaN or infinite"),
        ({"codec": pb.CODEC_FLOAT16, "payload": np.array([0, np.nan], "<f2").tobytes()}, "NaN or infinite"),
        ({"codec": pb.CODEC_FLOAT16, "payload": np.array([np.inf, 0], "<f2").tobytes()}, "NaN or infinite"),
    ],
)
def test_a_malformed_feature_is_refused_and_named(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(FeatureError, match=says):
        decode_feature(pb.FeatureTensor(**{**GOOD, **changes}), block=block_of((2,)), num_samples=1)


@given(st.binary(max_size=64), st.lists(st.integers(0, 2**32 - 1), max_size=4), st.integers(0, 6))
def test_no_message_raises_anything_else(payload: bytes, shape: list[int], codec: int) -> None:
    message = pb.FeatureTensor(codec=codec, shape=shape, payload=payload)  # type: ignore[arg-type] # on purpose
    try:
        found = decode_feature(message, block=block_of((2, 2)), num_samples=1)
    except FeatureError:
        return
    assert found.shape == (1, 2, 2) and np.isfinite(found).all()


LEVEL_CODECS: st.SearchStrategy[Codec] = st.sampled_from(["ans", "packed", "zstd"])
FREQUENCIES = st.lists(st.integers(1, 2**16), min_size=2, max_size=256).map(
    lambda counts: Levels(frequencies=tuple(counts))
)


@given(LEVEL_CODECS, FREQUENCIES, st.integers(0, 3), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_levels_come_out_as_they_went_in(
    codec: Codec, levels: Levels, samples: int, values: int, seed: int
) -> None:
    shape = (samples, values)
    code = np.random.default_rng(seed).integers(0, len(levels.frequencies), shape, dtype=np.uint8)
    message = encode_feature(code, codec, levels)
    found = decode_feature(message, block=block_of((values,), levels), num_samples=samples)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, code)


@pytest.mark.parametrize("level", [0, 1])
def test_however_rare_its_levels_a_code_is_decoded(level: int) -> None:
    levels = Levels(frequencies=(1, 2**16))
    code = np.full((2, 500), level, dtype=np.uint8)
    message = encode_feature(code, "ans", levels)
    found = decode_feature(message, block=block_of((500,), levels), num_samples=2)
    np.testing.assert_array_equal(found, code)


def test_a_code_takes_as_many_bytes_as_its_levels_are_surprising() -> None:
    levels = Levels(frequencies=(60, 30, 10))
    code = np.random.default_rng(0).choice(3, (1, 5000), p=(0.6, 0.3, 0.1)).astype(np.uint8)
    entropy_bytes = 5000 * -sum(p * np.log2(p) for p in (0.6, 0.3, 0.1)) / 8
    payload = encode_feature(code, "ans", levels).payload
    assert len(payload) == pytest.approx(entropy_bytes, rel=0.02)
    assert expected_bytes(block_of((5000,), levels), "ans") == pytest.approx(entropy_bytes, rel=0.01)


@pytest.mark.parametrize(("count", "per_byte"), [(2, 8), (3, 5), (4, 4), (6, 3), (16, 2), (17, 1), (256, 1)])
def test_packed_levels_take_as_few_bytes_as_whole_values_allow(count: int, per_byte: int) -> None:
    levels = Levels(frequencies=(1,) * count)
    payload = encode_feature(np.zeros((1, 31), np.uint8), "packed", levels).payload
    assert len(payload) == -(-31 // per_byte) == expected_bytes(block_of((31,), levels), "packed")


def test_levels_are_packed_where_that_is_no_larger_than_coding_them() -> None:
    assert codec_for_levels(block_of((496,), Levels(frequencies=(25, 25, 25, 26)))) == "packed"
    assert codec_for_levels(block_of((496,), Levels(frequencies=(97, 1, 1, 1)))) == "ans"
    # Three levels leave 13 of 256 bytes unused, which is less than the coder's own word on so short a code.
    assert codec_for_levels(block_of((50,), Levels(frequencies=(1, 1, 1)))) == "packed"


def test_levels_that_take_a_byte_each_are_compressed() -> None:
    assert codec_for_levels(block_of((4096,), Levels(frequencies=(97, *[1] * 15)))) == "ans"
    assert codec_for_levels(block_of((4096,), Levels(frequencies=(97, *[1] * 16)))) == "zstd"


def test_a_compressed_feature_takes_hardly_more_bytes_than_its_entropy() -> None:
    counts = np.arange(256, 0, -1)
    levels = Levels(frequencies=tuple(counts.tolist()))
    code = np.random.default_rng(0).choice(256, (1, 8192), p=counts / counts.sum()).astype(np.uint8)
    payload = encode_feature(code, "zstd", levels).payload
    expected = expected_bytes(block_of((8192,), levels), "zstd")
    assert expected < len(payload) < 1.05 * expected


@given(st.integers(1, 3000), st.integers(0, 2**32 - 1))
def test_no_frame_is_longer_than_the_most_that_is_allowed_for(values: int, seed: int) -> None:
    levels = Levels(frequencies=(1,) * 256)
    code = np.random.default_rng(seed).integers(0, 256, (1, values), dtype=np.uint8)
    assert len(encode_feature(code, "zstd", levels).payload) <= most_bytes(
        block_of((values,), levels), "zstd"
    )


BYTES = Levels(frequencies=(1,) * 200)
SKIPPABLE = (0x184D2A50).to_bytes(4, "little") + (31).to_bytes(4, "little") + bytes(31)


def frame(values: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(values)


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (b"", "not compressed levels"),
        (bytes(31), "not compressed levels"),
        (SKIPPABLE, "not compressed levels"),
        (frame(bytes(30)), "are 31 bytes, these are 30"),
        (frame(bytes(10_000_000)), "are 31 bytes, these are 10000000"),
        (frame(bytes(range(31)))[:-1], "not compressed levels"),
        (frame(bytes(range(31))) + b"\0", "not compressed levels"),
        (zstandard.ZstdCompressor(write_content_size=False).compress(bytes(31)), "are 31 bytes"),
        (frame(bytes([200] * 31)), "level 200, but there are 200"),
    ],
)
def test_frames_that_hold_no_such_feature_are_refused(payload: bytes, says: str) -> None:
    message = pb.FeatureTensor(codec=pb.CODEC_ZSTD, shape=(1, 31), payload=payload)
    with pytest.raises(FeatureError, match=says):
        decode_feature(message, block=block_of((31,), BYTES), num_samples=1)


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (bytes(6), "need 7 bytes, got 6"),
        (bytes(8), "need 7 bytes, got 8"),
        (b"\xf3" + bytes(6), "hold the byte 243"),
        (bytes(6) + b"\x03", "do not end where their 31 values do"),
    ],
)
def test_bytes_that_packing_never_writes_are_refused(payload: bytes, says: str) -> None:
    message = pb.FeatureTensor(codec=pb.CODEC_PACKED, shape=(1, 31), payload=payload)
    with pytest.raises(FeatureError, match=says):
        decode_feature(message, block=block_of((31,), Levels(frequencies=(2, 1, 1))), num_samples=1)


def test_a_float_takes_what_it_takes() -> None:
    assert expected_bytes(block_of((3, 4)), "float32") == 48
    assert expected_bytes(block_of((3, 4)), "float16") == 24


LEVELS = Levels(frequencies=(3, 2, 1, 1))
CODE = encode_feature(np.array([[0, 1, 2, 3, 0, 0, 1, 2] * 4], dtype=np.uint8), "ans", LEVELS)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"codec": pb.CODEC_FLOAT32}, "travels as ans"),
        ({"shape": (1, 31)}, "expected"),
        ({"payload": CODE.payload[:-1]}, "whole words of 4 bytes"),
        ({"payload": CODE.payload[:-4]}, "does not end where|not one that an encoder writes"),
        ({"payload": CODE.payload + b"\1\0\0\0"}, "does not end where"),
        ({"payload": CODE.payload + b"\0\0\0\0"}, "not one that an encoder writes"),
        ({"payload": bytes(400)}, "at most"),
    ],
)
def test_a_malformed_code_is_refused_and_named(changes: dict[str, Any], says: str) -> None:
    fields: dict[str, Any] = {"codec": CODE.codec, "shape": CODE.shape, "payload": CODE.payload}
    with pytest.raises(FeatureError, match=says):
        decode_feature(
            pb.FeatureTensor(**{**fields, **changes}), block=block_of((32,), LEVELS), num_samples=1
        )


@given(st.binary(max_size=96), FREQUENCIES)
def test_no_bytes_make_a_level_that_does_not_exist(payload: bytes, levels: Levels) -> None:
    message = pb.FeatureTensor(codec=pb.CODEC_ANS, shape=(1, 20), payload=payload)
    try:
        found = decode_feature(message, block=block_of((20,), levels), num_samples=1)
    except FeatureError:
        return
    assert found.shape == (1, 20) and found.max() < len(levels.frequencies)
