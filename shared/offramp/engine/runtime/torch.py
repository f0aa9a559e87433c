"""Blocks on torch, eager or compiled, on CUDA if there is a device. The only part of serving that imports torch.

A bundle contains no torch modules: `onnx2fx` converts a block's graph to one. It is a young library, so each block is
compared with ONNX Runtime when it is loaded, and refused if the results differ.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from typing import Any

import numpy as np
import onnx
import onnx2fx
import torch
from numpy.typing import NDArray
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from offramp.bundle import Bundle
from offramp.bundle.manifest import Block
from offramp.engine.runtime.block import OUTPUT_NAMES, BlockOutput
from offramp.engine.runtime.comparing import cannot_run, check_alike, noise
from offramp.engine.runtime.onnx import OnnxBlock


class TorchBlock:
    """One block as a torch module, in float32.

    CUDA is used if there is a device; pixels and features are copied there through pinned memory. The machines that run
    this project's tests have no GPU; the comparison with ONNX Runtime at start-up covers that path too.

    torch has one thread count for the whole process: the block that is loaded last sets it for all. Likewise, no
    convolution on CUDA may use TF32, with which a deep network is too far from what its thresholds were chosen with.
    """

    def __init__(
        self, block: Block, bundle: Bundle, *, threads: int, workers: int, compiled: bool = False
    ) -> None:
        """Convert the graph, compile it if asked to, and compare; raises the errors of `load_blocks`."""
        reference = OnnxBlock(block, bundle, threads=1, workers=1)  # checks the graph against the manifest
        torch.set_num_threads(threads)
        torch.backends.cudnn.allow_tf32 = False
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # onnx2fx creates some tensors while it runs; they have to be on the same device as the others.
        self._placing = self._device if self._device.type == "cuda" else contextlib.nullcontext()
        with _silenced():
            try:
                graph = onnx.load_from_string(bundle.graphs[block.number])
                self._names = [output.name for output in graph.graph.output]
                module = onnx2fx.convert(graph).eval()
                if compiled:
                    self._module = _compiled(module, torch.tensor(noise(block, 3)), self._device)
                else:
                    self._module = module.to(self._device)
            except Exception as error:
                raise cannot_run(block, bundle, error, where="torch") from error
            check_alike(self, reference, block, bundle, where="torch")

    def run(self, batch: NDArray[Any]) -> BlockOutput:
        """Run the block on a batch (B, …) of its input shape and dtype."""
        with torch.inference_mode(), self._placing:
            results = self._module(self._held(batch))
        values = {
            name: value.cpu().contiguous().numpy() for name, value in zip(self._names, results, strict=True)
        }
        return BlockOutput(*map(values.get, OUTPUT_NAMES))

    def _held(self, batch: NDArray[Any]) -> torch.Tensor:
        # A copy: features from the wire are read-only.
        held = torch.tensor(np.ascontiguousarray(batch), device="cpu")
        if self._device.type == "cuda":
            held = held.pin_memory()
        return held.to(self._device, non_blocking=True)


def _compiled(module: GraphModule, example: torch.Tensor, device: torch.device) -> Any:
    """Compile for any batch size.

    The module is traced first, so that the compiler sees the graph's constants as constants; on a CPU, as constants
    that are shapes are read. Some graphs read the batch size as data (the exporter writes some strides that way). They
    are compiled without a trace, which would fix the batch size of the example.
    """
    with torch.no_grad():
        traced = make_fx(module, tracing_mode="symbolic", _allow_non_fake_inputs=True)(example)
    read_as_number = torch.ops.aten._local_scalar_dense.default  # noqa: SLF001 - the operator's name
    if any(node.target is read_as_number for node in traced.graph.nodes):
        return torch.compile(module.to(device))
    for node in traced.graph.nodes:
        # The compiler may choose a different memory layout from the trace, and `view` does not accept every layout.
        if node.target is torch.ops.aten.view.default:
            node.target = torch.ops.aten.reshape.default
        if "device" in node.kwargs:
            node.kwargs = {**node.kwargs, "device": device}
    traced.recompile()
    return torch.compile(traced.to(device))


@contextlib.contextmanager
def _silenced() -> Any:
    # The compiler warns about its own internals, and about graph breaks that only cost time.
    log = logging.getLogger("torch")
    level = log.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            log.setLevel(level)
