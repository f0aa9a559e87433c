"""Compares a runtime that makes its own graph of a block with ONNX Runtime on the CPU, when the block is loaded."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.bundle import Bundle
from offramp.bundle.manifest import Block
from offramp.engine.runtime.block import OUTPUT_NAMES, BlockRunner
from offramp.errors import BundleError

# A wrong operator is off by far more than this, TF32 on a GPU by less.
_TOLERANCE = 1e-2
# A compiler generates separate code for a fixed batch size, for any size, for a single sample, and for sizes that fill
# a vector register. These batches trigger all of it before the first request.
_BATCHES = (2, 3, 1, 16)


def check_alike(
    found: BlockRunner, reference: BlockRunner, block: Block, bundle: Bundle, *, where: str
) -> None:
    """Check that a block says what it says on ONNX Runtime, for several sizes of batch.

    Raises:
        BundleError: it does not, or cannot be run there; `where` is what the message calls the other runtime.
    """
    try:
        apart = _apart_from(found, reference, block)
    except Exception as error:
        raise cannot_run(block, bundle, error, where=where) from error
    if not apart <= _TOLERANCE:
        raise BundleError(
            f"{bundle.directory / block.file} differs on {where} by {apart:.2g} from ONNX Runtime, but at most "
            f"{_TOLERANCE} is allowed; choose --runtime onnx"
        )


def cannot_run(block: Block, bundle: Bundle, error: Exception, *, where: str) -> BundleError:
    """The error of a block whose graph another runtime does not run."""
    file = bundle.directory / block.file
    return BundleError(f"{file} is not a graph {where} can run: {error}; choose --runtime onnx")


def noise(block: Block, count: int) -> NDArray[Any]:
    """A batch for a block."""
    generator = np.random.default_rng(count)
    shape = (count, *block.input.shape)
    if block.input.dtype == "float32":
        return generator.random(shape, dtype=np.float32)
    return generator.integers(0, 256, shape, dtype=np.uint8)


def _apart_from(found: BlockRunner, reference: BlockRunner, block: Block) -> float:
    apart = 0.0
    for count in _BATCHES:
        batch = noise(block, count)
        expected, given = reference.run(batch), found.run(batch)
        found_apart = [_apart(getattr(expected, name), getattr(given, name)) for name in OUTPUT_NAMES]
        apart = float(np.max([apart, *found_apart]))  # which NaN passes through, unlike Python's own
    return apart


def _apart(expected: NDArray[Any] | None, found: NDArray[Any] | None) -> float:
    """Largest difference, relative to the largest value if that is above 1; for codes, the part beyond one level."""
    if expected is None or found is None:
        return 0.0 if expected is found else np.inf
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return np.inf
    difference = float(np.abs(expected.astype(np.float64) - found).max())
    if expected.dtype == np.uint8:  # a value between two levels may be rounded either way
        return max(0.0, difference - 1)
    return difference / max(1.0, float(np.abs(expected).max()))
