"""Blocks on ONNX Runtime."""

from __future__ import annotations

from typing import Any

import onnxruntime
from numpy.typing import NDArray

from offramp.bundle import Bundle
from offramp.bundle.manifest import Block
from offramp.bundle.precision import multiplies_int8
from offramp.engine.runtime.block import OUTPUT_NAMES, BlockOutput, check_signature
from offramp.errors import BundleError

_DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}


class OnnxBlock:
    """One block on ONNX Runtime's CPU provider, in float32 unless its graph is in int8.

    A session may be called from any number of threads.
    """

    def __init__(self, block: Block, bundle: Bundle, *, threads: int, workers: int) -> None:
        """Load the graph; raises the errors of `load_blocks`."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Spinning threads steal the core that the server's own loop needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if not multiplies_int8():
            # Kernels for int8 overflow then; these are slower, and give the same numbers as those that do not.
            options.add_session_config_entry("session.x64quantprecision", "1")
        try:
            self._session = onnxruntime.InferenceSession(
                bundle.graphs[block.number], options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise BundleError(
                f"{bundle.directory / block.file} is not a graph ONNX Runtime can run: {error}; export the bundle again"
            ) from error
        takes = [(_DTYPES.get(i.type, i.type), tuple(i.shape[1:])) for i in self._session.get_inputs()]
        self._names = [output.name for output in self._session.get_outputs()]
        check_signature(block, bundle, takes=takes, returns=self._names)
        self._input = self._session.get_inputs()[0].name

    def run(self, batch: NDArray[Any]) -> BlockOutput:
        """Run the block on a batch (B, …) of its input shape and dtype."""
        values: dict[str, NDArray[Any]] = dict(
            zip(self._names, self._session.run(self._names, {self._input: batch}), strict=True)
        )
        return BlockOutput(*map(values.get, OUTPUT_NAMES))
