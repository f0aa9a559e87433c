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

from offramp.authoring.backbones.onnx.part import OnnxPart, onnx_parts
from offramp.authoring.export.joining import joined, rename
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
        before: list[nn.Module] = [Decode(arriving)] if arriving is not None else []
        if number == 1:
            before = [Normalise(preprocessing), _Contiguous()]
        leaving: nn.Module | None = Encode(narrowed) if narrowed is not None else nn.Identity()
        if number == len(network.blocks):
            leaving = None
        end = _End(network.eec_behind(number), behind.get(number), leaving)
        parts = onnx_parts(block)
        if parts:
            shape = narrowed.feature_shape if narrowed is not None else cost.feature_shapes[number]
            model = _joined_block(before, parts, end, batch, torch.zeros(2, *shape))
        else:
            model = _to_onnx(nn.Sequential(*before, block, end), batch, end.output_names)
        graphs[number] = _finished(model)
        dtype = torch.uint8 if narrowed is not None else torch.float32
        batch = torch.zeros(2, *cost.feature_shapes[number], dtype=dtype)
    return graphs


class _End(nn.Module):
    """What a graph does with the feature of its block: feature, probabilities, confidence, or those it returns."""

    def __init__(
        self, eec: nn.Module | None, confidence: Confidence | None, leaving: nn.Module | None
    ) -> None:
        super().__init__()
        self.eec = eec
        self.leaving = leaving
        self.confidence = confidence

    @property
    def output_names(self) -> list[str]:
        return (["feature"] if self.leaving else []) + (["probabilities", "confidence"] if self.eec else [])

    def forward(self, feature: Tensor) -> tuple[Tensor, ...]:
        handed_on = (self.leaving(feature),) if self.leaving else ()
        if self.eec is None or self.confidence is None:
            return handed_on
        return (*handed_on, *self.confidence.of(self.eec(feature)))


class _Contiguous(nn.Module):
    """Undoes channels-last memory, for which the exporter would add nodes; it leaves nothing in the graph itself."""

    def forward(self, image_BCHW: Tensor) -> Tensor:
        return image_BCHW.contiguous()


def _joined_block(
    before: Sequence[nn.Module], parts: Sequence[OnnxPart], end: _End, batch: Tensor, feature: Tensor
) -> Any:
    """The graph of a block that comes from an ONNX file, with what is before and behind it."""
    models = [part.model for part in parts]
    if before:
        models.insert(0, _to_onnx(nn.Sequential(*before), batch, ["feature"]))
    names = end.output_names
    passes_on = isinstance(end.leaving, nn.Identity)
    if passes_on:
        end = _End(end.eec, end.confidence, None)
    if end.output_names:
        models.append(_to_onnx(end, feature, end.output_names))
    model = joined(models)
    if end.output_names and not passes_on:
        del model.graph.output[0]
    rename(model.graph, model.graph.input[0].name, "batch")
    for name, output in zip(names, [output.name for output in model.graph.output], strict=True):
        rename(model.graph, output, name)
    return model


def _to_onnx(module: nn.Module, batch: Tensor, output_names: Sequence[str]) -> Any:
    with _silenced():
        program = torch.onnx.export(
            module.eval(),
            (batch,),
            input_names=["batch"],
            output_names=output_names,
            dynamic_shapes=({0: torch.export.Dim("samples", min=1)},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def _finished(model: Any) -> bytes:
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
    return bytes(model.SerializeToString(deterministic=True))


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
