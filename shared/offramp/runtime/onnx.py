"""Blocks on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from offramp.bundle import Bundle
from offramp.bundle.manifest import Block
from offramp.errors import BundleError
from offramp.runtime.block import BlockOutput, BlockRunner

_ONNX_DTYPES = {"uint8": "tensor(uint8)", "float32": "tensor(float)"}


def load_blocks(bundle: Bundle, start: int, stop: int, *, threads: int = 1) -> Sequence[BlockRunner]:
    """Load blocks `start` to `stop`, both included.

    Args:
        bundle: verified.
        start: number of the first block.
        stop: number of the last one.
        threads: threads that share one call. More than one only pays for large blocks and few clients.

    Raises:
        BundleError: a graph that ONNX Runtime refuses, or whose inputs or outputs the manifest belies.
    """
    return [_OnnxBlock(block, bundle, threads) for block in bundle.manifest.blocks[start - 1 : stop]]


class _OnnxBlock:
    def __init__(self, block: Block, bundle: Bundle, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Spinning threads steal the core that the server's own loop needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(
                bundle.graphs[block.number], options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise BundleError(
                f"{bundle.directory / block.file} is not a graph ONNX Runtime can run: {error}; export the bundle again"
            ) from error
        self._check(block, bundle)
        self._input = self._session.get_inputs()[0].name
        self._names = [output.name for output in self._session.get_outputs()]

    def run(self, batch: NDArray[Any]) -> BlockOutput:
        values: dict[str, NDArray[Any]] = dict(
            zip(self._names, self._session.run(self._names, {self._input: batch}), strict=True)
        )
        return BlockOutput(values.get("feature"), values.get("probabilities"), values.get("confidence"))

    def _check(self, block: Block, bundle: Bundle) -> None:
        found = [(i.type, tuple(i.shape[1:])) for i in self._session.get_inputs()]
        expected = [(_ONNX_DTYPES[block.input.dtype], block.input.shape)]
        outputs = {output.name for output in self._session.get_outputs()}
        wanted = ({"feature"} if block.feature else set()) | (
            {"probabilities", "confidence"} if block.exit else set()
        )
        if found != expected or outputs != wanted:
            raise BundleError(
                f"{bundle.directory / block.file} takes {found} and returns {sorted(outputs)}, but the manifest says "
                f"{expected} and {sorted(wanted)}; export the bundle again"
            )
