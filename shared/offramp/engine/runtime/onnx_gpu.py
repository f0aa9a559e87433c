"""Blocks on ONNX Runtime's providers for NVIDIA GPUs: CUDA, which ran on an H200, and TensorRT, which never ran.

A call takes a lane: a session, which has a CUDA stream of its own, and a thread of its own, because ONNX Runtime
captures CUDA graphs for the thread that runs them. For each size of batch a lane has memory that stays where it is, and
a graph that is captured when the block is loaded. So a batch is copied there, its kernels are launched together, and
only results are copied back. Sizes are powers of two; a batch is filled up to the next one, and one that is larger than
the largest is cut. Memory is not pinned: ONNX Runtime 1.31 has none for CUDA.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from ctypes.util import find_library
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime import InferenceSession, OrtValue, RunOptions

from offramp.bundle import Bundle
from offramp.bundle.manifest import Block
from offramp.engine.runtime.block import OUTPUT_NAMES, BlockOutput
from offramp.engine.runtime.comparing import cannot_run, check_alike
from offramp.engine.runtime.onnx import OnnxBlock
from offramp.errors import ConfigError

_DTYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}
_LARGEST = 32
_SIZES = tuple(1 << power for power in range(_LARGEST.bit_length()))
_DRIVER = Path("/dev/nvidiactl")


@dataclass(frozen=True)
class Provider:
    """What ONNX Runtime calls a kind of device, what memory on it is called, and options for it.

    others: providers that run what this one does not. library: one that ONNX Runtime does not bring along.
    """

    name: str
    device: str = "cuda"
    options: Mapping[str, str] = field(default_factory=dict)
    others: Sequence[str] = ("CUDAExecutionProvider", "CPUExecutionProvider")
    library: str = ""

    @property
    def is_installed(self) -> bool:
        """Whether the ONNX Runtime that is installed was built with it."""
        return self.name in onnxruntime.get_available_providers()

    @property
    def has_library(self) -> bool:
        """Whether the library it needs besides is where the system looks for libraries."""
        return not self.library or find_library(self.library) is not None

    @property
    def is_at_hand(self) -> bool:
        """Whether it is installed, with its library, on a machine with NVIDIA's driver."""
        return self.is_installed and self.has_library and _DRIVER.exists()


CUDA = Provider(
    "CUDAExecutionProvider",
    options={"enable_cuda_graph": "1", "use_tf32": "0"},
    others=("CPUExecutionProvider",),
)
TENSORRT = Provider("TensorrtExecutionProvider", library="nvinfer")
PROVIDERS = {"cuda": CUDA, "tensorrt": TENSORRT}


class GpuBlock:
    """One block on a GPU, in float32; it is compared with ONNX Runtime on the CPU when it is loaded."""

    def __init__(
        self, block: Block, bundle: Bundle, *, threads: int, workers: int, provider: Provider
    ) -> None:
        """Load the graph once for each worker; raises the errors of `load_blocks`. `threads` are a CPU's."""
        del threads
        reference = OnnxBlock(block, bundle, threads=1, workers=1)  # checks the graph against the manifest
        if not provider.is_installed:
            raise ConfigError(
                f"ONNX Runtime has no {provider.name} here, only {', '.join(onnxruntime.get_available_providers())}; "
                "install onnxruntime-gpu in place of onnxruntime, or choose --runtime onnx"
            )
        _preload()
        self._lanes = SimpleQueue[_Lane]()
        for _ in range(workers):
            try:
                lane = _Lane(bundle.graphs[block.number], provider)
            except ConfigError:
                raise
            except Exception as error:
                if not provider.has_library:
                    raise ConfigError(
                        f"{provider.name} did not start, and the library it needs, {provider.library}, was not found; "
                        f"install it, or choose --runtime cuda ({error})"
                    ) from error
                raise cannot_run(block, bundle, error, where=provider.name) from error
            check_alike(lane, reference, block, bundle, where=provider.name)
            self._lanes.put(lane)

    def run(self, batch: NDArray[Any]) -> BlockOutput:
        """Run the block on a batch (B, …) of its input shape and dtype."""
        lane = self._lanes.get()
        try:
            return lane.run(batch)
        finally:
            self._lanes.put(lane)


@cache
def _preload() -> None:
    """Load CUDA's libraries, if they were installed with pip; what is missing there may still be found elsewhere."""
    with redirect_stdout(sys.stderr):  # it prints what it does not find
        onnxruntime.preload_dlls()


class _Lane:
    """A session with a thread, and memory for each size of batch; for one caller at a time."""

    def __init__(self, graph: bytes, provider: Provider) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        # Without a fallback an error is raised, not printed.
        session = InferenceSession(
            graph,
            options,
            providers=[(provider.name, dict(provider.options)), *provider.others],
            enable_fallback=0,
        )
        # A provider whose libraries or device are missing is left out without an error.
        if provider.name not in session.get_providers():
            raise ConfigError(
                f"{provider.name} did not start, so only {', '.join(session.get_providers())} would run; check "
                "that there is a device and the CUDA that ONNX Runtime was built for, or choose --runtime onnx"
            )
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="lane")
        self._bound = self._thread.submit(_bound_for_all, session, provider).result()

    def run(self, batch: NDArray[Any]) -> BlockOutput:
        return self._thread.submit(self._run, batch).result()

    def _run(self, batch: NDArray[Any]) -> BlockOutput:
        parts = [batch[start : start + _LARGEST] for start in range(0, len(batch), _LARGEST)]
        found = [self._bound[1 << (len(part) - 1).bit_length()].run(part) for part in parts]
        return found[0] if len(found) == 1 else _joined(found)


def _bound_for_all(session: InferenceSession, provider: Provider) -> Mapping[int, _Bound]:
    """Memory for every size, the largest first; each is run once, which captures its graph."""
    bound = {size: _Bound(session, size, provider) for size in reversed(_SIZES)}
    for each in bound.values():
        each.run(each.held)
    return bound


def _joined(parts: Sequence[BlockOutput]) -> BlockOutput:
    found = {name: [getattr(part, name) for part in parts] for name in OUTPUT_NAMES}
    return BlockOutput(*(None if each[0] is None else np.concatenate(each) for each in found.values()))


class _Bound:
    """Memory for one size of batch, bound to a session; for one caller at a time."""

    def __init__(self, session: InferenceSession, size: int, provider: Provider) -> None:
        self._session = session
        self._binding = session.io_binding()
        [given] = session.get_inputs()
        shape, dtype = (size, *given.shape[1:]), _DTYPES[given.type]
        self.held = np.zeros(shape, dtype)
        self._given = OrtValue.ortvalue_from_shape_and_type(shape, dtype, provider.device, 0)
        self._binding.bind_ortvalue_input(given.name, self._given)
        self._found = {}
        for output in session.get_outputs():
            kind = _DTYPES[output.type]
            value = OrtValue.ortvalue_from_shape_and_type((size, *output.shape[1:]), kind, provider.device, 0)
            self._binding.bind_ortvalue_output(output.name, value)
            self._found[output.name] = value
        self._options = RunOptions()
        self._options.add_run_config_entry("gpu_graph_id", str(size))
        self._is_view = provider.device == "cpu"

    def run(self, batch: NDArray[Any]) -> BlockOutput:
        self.held[: len(batch)] = batch
        self._given.update_inplace(self.held)
        self._session.run_with_iobinding(self._binding, self._options)
        values = {name: self._copied(value)[: len(batch)] for name, value in self._found.items()}
        return BlockOutput(*map(values.get, OUTPUT_NAMES))

    def _copied(self, value: OrtValue) -> NDArray[Any]:
        """The numbers, in memory that the next batch leaves alone."""
        return np.array(value.numpy(), copy=self._is_view)
