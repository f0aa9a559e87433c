"""Blocks on OpenVINO, for CPUs: in bfloat16 if the CPU supports it."""

from __future__ import annotations

import functools
import sys
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.bundle import Bundle
from offramp.bundle.manifest import Block
from offramp.engine.runtime.block import OUTPUT_NAMES, BlockOutput, check_signature
from offramp.errors import BundleError

# OpenVINO reports every import to its vendor if this package is installed. A node must not do that.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino  # noqa: E402

_DTYPES = {"u8": "uint8", "f32": "float32"}


class OpenVinoBlock:
    """One block on OpenVINO's CPU plugin.

    OpenVINO's performance hint chooses the precision for this CPU: bfloat16 if that is native (AVX-512 BF16, AMX),
    otherwise float32. Features and the outputs of EECs are returned as float32 either way.
    """

    def __init__(self, block: Block, bundle: Bundle, *, threads: int, workers: int) -> None:
        """Compile the graph; raises the errors of `load_blocks`."""
        try:
            model = _core().read_model(bundle.graphs[block.number])
            self._compiled = _core().compile_model(
                model,
                "CPU",
                {
                    "EXECUTION_MODE_HINT": "PERFORMANCE",  # this CPU's fastest precision, not the graph's
                    "NUM_STREAMS": workers,  # with fewer streams, workers would wait for each other
                    "INFERENCE_NUM_THREADS": threads * workers,
                    "ENABLE_CPU_PINNING": False,  # several nodes and blocks share these cores
                },
            )
        except Exception as error:
            raise BundleError(
                f"{bundle.directory / block.file} is not a graph OpenVINO can run: {error}; choose --runtime onnx"
            ) from error
        takes = [
            (_dtype(port), tuple(_length(size) for size in port.partial_shape)[1:]) for port in model.inputs
        ]
        self._names = [port.get_any_name() for port in model.outputs]
        check_signature(block, bundle, takes=takes, returns=self._names)
        self._of_thread = threading.local()

    @property
    def precision(self) -> str:
        """The precision it computes in: bf16, f16 or f32."""
        return str(self._compiled.get_property("INFERENCE_PRECISION_HINT").to_string())

    def run(self, batch: NDArray[Any]) -> BlockOutput:
        """Run the block on a batch (B, …) of its input shape and dtype."""
        request = self._request()
        request.infer([batch], share_inputs=True, share_outputs=True)
        # Copied: the request's memory is overwritten by this thread's next call.
        values = {name: np.array(request.get_tensor(name).data) for name in self._names}
        return BlockOutput(*map(values.get, OUTPUT_NAMES))

    def _request(self) -> openvino.InferRequest:
        # An infer request serves one caller at a time.
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self._compiled.create_infer_request()
        request: openvino.InferRequest = self._of_thread.request
        return request


@functools.cache
def _core() -> openvino.Core:
    return openvino.Core()


def _dtype(port: Any) -> str:
    name = str(port.element_type.get_type_name())
    return _DTYPES.get(name, name)


def _length(size: Any) -> int:
    return size.get_length() if size.is_static else -1
