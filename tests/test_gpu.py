"""Blocks for a GPU, with the memory of a CPU where there is none: what is copied where, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnxruntime import InferenceSession, SessionOptions

from offramp.bundle import Bundle, load_bundle
from offramp.engine.images import decode_image
from offramp.engine.runtime import BlockOutput, Runtime, load_blocks, onnx_gpu, runtimes_at_hand
from offramp.engine.runtime.comparing import check_alike
from offramp.engine.runtime.onnx_gpu import CUDA, GpuBlock, Provider
from offramp.errors import BundleError, ConfigError
from tests.conftest import FASHION_BUNDLE, ROOT, SAMPLES

CPU = Provider("CPUExecutionProvider", device="cpu", others=())


@pytest.fixture(scope="module")
def fashion() -> Bundle:
    return load_bundle(FASHION_BUNDLE)


@pytest.fixture(scope="module")
def photos(fashion: Bundle) -> NDArray[np.uint8]:
    files = sorted(SAMPLES.glob("*/*.png"))[:70]
    return np.stack([decode_image(file.read_bytes(), fashion.manifest.preprocessing) for file in files])


def block_on_cpu(bundle: Bundle, *, workers: int = 1) -> GpuBlock:
    return GpuBlock(bundle.manifest.blocks[0], bundle, threads=1, workers=workers, provider=CPU)


def check_same(found: BlockOutput, expected: BlockOutput) -> None:
    for name in ("feature", "probabilities", "confidence"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-6)


def test_a_batch_of_any_size_gets_its_own_answers(fashion: Bundle, photos: NDArray[np.uint8]) -> None:
    [plain] = load_blocks(fashion, 1, 1)
    block = block_on_cpu(fashion)
    for size in (1, 5, 16, 3, 20, 1, 33, 70):
        check_same(block.run(photos[:size]), plain.run(photos[:size]))


def test_an_answer_survives_the_next_batch(fashion: Bundle, photos: NDArray[np.uint8]) -> None:
    block = block_on_cpu(fashion)
    first = block.run(photos[:2])
    assert first.feature is not None and first.feature.flags.c_contiguous
    kept = first.feature.copy()
    block.run(photos[2:4])
    np.testing.assert_array_equal(first.feature, kept)


def test_callers_of_several_lanes_do_not_mix_up_their_answers(
    fashion: Bundle, photos: NDArray[np.uint8]
) -> None:
    [plain] = load_blocks(fashion, 1, 1)
    block = block_on_cpu(fashion, workers=2)
    expected = [plain.run(photo[np.newaxis]) for photo in photos]
    with ThreadPoolExecutor(4) as pool:
        places = list(range(len(photos))) * 5
        found = list(pool.map(lambda place: block.run(photos[place : place + 1]), places))
    for place, output in zip(places, found, strict=True):
        check_same(output, expected[place])


def test_a_provider_that_does_not_start_is_no_reason_to_compute_elsewhere(
    fashion: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_driver(graph: bytes, options: SessionOptions, **_: Any) -> InferenceSession:
        # What ONNX Runtime makes where a driver or a library is missing: it leaves the provider out.
        return InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA.name, "CPUExecutionProvider"])
    monkeypatch.setattr(onnx_gpu, "InferenceSession", without_driver)
    with pytest.raises(
        ConfigError, match="CUDAExecutionProvider did not start, so only CPUExecutionProvider would"
    ):
        GpuBlock(fashion.manifest.blocks[0], fashion, threads=1, workers=1, provider=CUDA)


@pytest.mark.parametrize("runtime", ["cuda", "tensorrt"])
def test_without_a_gpu_it_says_what_to_install(fashion: Bundle, runtime: Runtime) -> None:
    if runtime in runtimes_at_hand():
        pytest.skip("this ONNX Runtime was built for GPUs")
    with pytest.raises(
        ConfigError, match="install onnxruntime-gpu in place of onnxruntime, or choose --runtime"
    ):
        load_blocks(fashion, 1, 1, runtime=runtime)


def test_a_provider_that_fails_without_its_library_says_so(
    fashion: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any, **__: Any) -> InferenceSession:
        raise RuntimeError("some function of ONNX Runtime failed")

    monkeypatch.setattr(onnx_gpu, "InferenceSession", failing)
    alone = replace(CPU, library="no-such-library")
    assert CPU.has_library and not alone.has_library and not alone.is_at_hand
    with pytest.raises(ConfigError, match="the library it needs, no-such-library, was not found; install it"):
        GpuBlock(fashion.manifest.blocks[0], fashion, threads=1, workers=1, provider=alone)
    with pytest.raises(BundleError, match="is not a graph CPUExecutionProvider can run: some function"):
        block_on_cpu(fashion)


def test_int8_is_refused() -> None:
    bundle = load_bundle(ROOT / "models" / "b-alexnet-cifar10-int8")
    with pytest.raises(ConfigError, match="which is in int8; choose --runtime onnx or openvino"):
        load_blocks(bundle, 1, 1, runtime="cuda")


def test_a_block_that_fails_or_says_no_numbers_is_refused(fashion: Bundle) -> None:
    [plain] = load_blocks(fashion, 1, 1)

    class Broken:
        """Runs the block, and then does something to its confidence."""

        def __init__(self, does: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> None:
            self._does = does

        def run(self, batch: NDArray[np.generic]) -> BlockOutput:
            found = plain.run(batch)
            assert found.confidence is not None
            return replace(found, confidence=self._does(found.confidence))

    def check(does: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> None:
        check_alike(Broken(does), plain, fashion.manifest.blocks[0], fashion, where="a GPU")

    check(lambda confidence: confidence + np.float32(0.001))
    with pytest.raises(BundleError, match=r"differs on a GPU by 0\.02 from ONNX Runtime"):
        check(lambda confidence: confidence - np.float32(0.02))
    with pytest.raises(BundleError, match="differs on a GPU by nan"):
        check(lambda confidence: confidence * np.float32("nan"))
    with pytest.raises(BundleError, match="is not a graph a GPU can run: integer division or modulo by zero"):
        check(lambda confidence: confidence * (1 // 0))
