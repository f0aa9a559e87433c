"""Exports a network's blocks as ONNX graphs that include preprocessing and confidence.

Shapes: B samples, H x W pixels, C channels.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from offramp.authoring.networks.bottleneck import Decode, Encode
from offramp.authoring.networks.confidence import Confidence
from offramp.authoring.networks.cost import NetworkCost
from offramp.authoring.networks.early_exit import EarlyExitNetwork
from offramp.authoring.networks.normalise import Normalise
from offramp.bundle import Preprocessing


def export_graphs(
    network: EarlyExitNetwork,
    preprocessing: Preprocessing,
    cost: NetworkCost,
    confidences: Sequence[Confidence],
) -> Mapping[int, bytes]:
    """The graph of every block, serialised, by the block's number.

    Block 1 takes pixels. Every other block takes the output of the one before, encoded if a bottleneck lies between.

    Args:
        network: in inference mode.
        preprocessing: of the pixels.
        cost: of this network, for the shapes of its features.
        confidences: of every exit, shallow to deep.
    """
    graphs = {}
    behind = dict(zip(network.exit_blocks, confidences, strict=True))
    # Two samples: with one, the exporter would treat the batch size as a constant.
    batch = torch.zeros(2, *preprocessing.pixel_shape, dtype=torch.uint8)
    for number, block in enumerate(network.blocks, start=1):
        arriving, narrowed = network.bottleneck_behind(number - 1), network.bottleneck_behind(number)
        if number == 1:
            block = nn.Sequential(Normalise(preprocessing), _Contiguous(), block)
        elif arriving is not None:
            block = nn.Sequential(Decode(arriving), block)
        leaving: nn.Module | None = Encode(narrowed) if narrowed is not None else nn.Identity()
        if number == len(network.blocks):
            leaving = None
        exported = _ExportedBlock(block, network.eec_behind(number), behind.get(number), leaving).eval()
        graphs[number] = _to_onnx(exported, batch)
        dtype = torch.uint8 if narrowed is not None else torch.float32
        batch = torch.zeros(2, *cost.feature_shapes[number], dtype=dtype)
    return graphs


class _ExportedBlock(nn.Module):
    """A block as its graph computes it: feature, probabilities and confidence, or those of the three that it has."""

    def __init__(
        self,
        block: nn.Module,
        eec: nn.Module | None,
        confidence: Confidence | None,
        leaving: nn.Module | None,
    ) -> None:
        super().__init__()
        self.block = block
        self.eec = eec
        self.leaving = leaving
        self._confidence = confidence

    @property
    def output_names(self) -> list[str]:
        return (["feature"] if self.leaving else []) + (["probabilities", "confidence"] if self.eec else [])

    def forward(self, batch: Tensor) -> tuple[Tensor, ...]:
        feature = self.block(batch)
        handed_on = (self.leaving(feature),) if self.leaving else ()
        if self.eec is None or self._confidence is None:
            return handed_on
        return (*handed_on, *self._confidence.of(self.eec(feature)))


class _Contiguous(nn.Module):
    """Undoes channels-last memory, for which the exporter would add nodes; it leaves nothing in the graph itself."""

    def forward(self, image_BCHW: Tensor) -> Tensor:
        return image_BCHW.contiguous()


def _to_onnx(block: _ExportedBlock, batch: Tensor) -> bytes:
    with _silenced():
        program = torch.onnx.export(
            block,
            (batch,),
            input_names=["batch"],
            output_names=block.output_names,
            dynamic_shapes=({0: torch.export.Dim("samples", min=1)},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    del model.metadata_props[:]
    for node in model.graph.node:
        # The exporter records the source line of every node, including paths on this machine.
        del node.metadata_props[:]
        node.doc_string = ""
    parts: list[Any] = [
        *model.graph.value_info,
        *model.graph.input,
        *model.graph.output,
        *model.graph.initializer,
    ]
    for part in parts:
        del part.metadata_props[:]
        part.doc_string = ""
    _keep_layout(model.graph)
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)


def _keep_layout(graph: onnx.GraphProto) -> None:
    """Put a 1 x 1 max pool before the first residual sum, unless a convolution or a sum feeds it.

    The pool changes no value. ONNX Runtime fuses convolutions and sums in a layout of its own, but only if everything
    it adds comes from an operator in that layout. The input of a graph does not, nor does the output of a bottleneck's
    decoder. Without the pool, every later sum would be converted out of that layout and back.
    """
    made_by = {output: node for node in graph.node for output in node.output}
    for name in (graph.input[0].name, *made_by):
        if {"Add", "Conv"} <= {node.op_type for node in graph.node if name in node.input}:
            break
    else:
        return
    origin = made_by.get(name)
    while origin and origin.op_type in ("Relu", "BatchNormalization"):
        origin = made_by.get(origin.input[0])
    if origin and origin.op_type in ("Add", "Conv"):
        return
    for node in graph.node:
        node.input[:] = [f"{name}_kept" if given == name else given for given in node.input]
    at = list(graph.node).index(made_by[name]) + 1 if name in made_by else 0
    pool = onnx.helper.make_node("MaxPool", [name], [f"{name}_kept"], kernel_shape=[1, 1])
    graph.node.insert(at, pool)


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    # The exporter prints its progress on standard output and warns about its own internals.
    log = logging.getLogger("torch.onnx")
    level = log.level
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            log.setLevel(level)
