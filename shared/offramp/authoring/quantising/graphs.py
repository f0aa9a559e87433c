"""A block's graph with its layers in int8: ONNX Runtime's static quantisation, and what is around it here.

Weights get 8 bits with a scale for each channel, activations 8 bits with one scale for each tensor, from the smallest
and largest value that photos give. A feature that leaves a block as 8 bits enters the next one with the same scale.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

_LAYERS = ("Conv", "Gemm", "MatMul")
# What takes and returns 8 bits as well, so that nothing has to be converted between two layers.
_BETWEEN = (
    *("Add", "Clip", "Relu", "Concat", "AveragePool", "GlobalAveragePool", "MaxPool", "Pad", "Slice"),
    *("Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"),
)


@dataclass(frozen=True)
class Scale:
    """What the levels of a feature mean: (level - zero_point) · step."""

    step: float
    zero_point: int

    def values(self, levels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The numbers that levels stand for, as a graph computes them."""
        return (levels.astype(np.float32) - np.float32(self.zero_point)) * np.float32(self.step)


@dataclass(frozen=True)
class Quantised:
    """A block's graph in int8, and what the levels of its feature mean; None if the feature stays in float32."""

    graph: bytes
    handed_on: Scale | None


class Quantiser:
    """Makes int8 graphs of one block, with some of its layers left in float32."""

    def __init__(
        self, graph: bytes, batches: Sequence[NDArray[Any]], taken: Scale | None, folder: Path
    ) -> None:
        """Read the graph.

        Args:
            graph: of a block that takes float32, pixels, or a bottleneck's code.
            batches: inputs of the block; their ranges are those of its tensors.
            taken: what the levels in `batches` mean, if the block before hands on a feature in 8 bits.
            folder: for files of the tools that are used; of this block alone.
        """
        self._folder = folder
        self._taken = taken
        self._batches = [taken.values(batch) for batch in batches] if taken else batches
        self._model = _prepared(graph, folder)
        self.layers, self._never = _quantisable(self._model.graph)

    def floating(self) -> bytes:
        """The block in float32, which takes what the block before hands on."""
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        if self._taken:
            _take_levels(model.graph, self._taken)
        return _serialised(model)

    def quantised(self, left: Collection[str]) -> Quantised:
        """The block in int8, but for the layers of these names."""
        given = self._model.graph.input[0].name
        overrides = {given: [_override(self._taken)]} if self._taken else {}
        out = self._folder / "quantised.onnx"
        quantization.quantize_static(
            _without_copies(self._model),
            out,
            _Batches(self._batches, given),
            op_types_to_quantize=[*_LAYERS, *_BETWEEN],
            nodes_to_exclude=[*self._never, *left],
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            extra_options={"TensorQuantOverrides": overrides, "MatMulConstBOnly": True},
            calibration_cache_path=self._folder / "ranges.json",
        )
        made = onnx.load(out)
        if self._taken:
            _take_levels(made.graph, self._taken)
        handed_on = _hand_on_levels(made.graph)
        return Quantised(_serialised(made), handed_on)


class _Batches(quantization.CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, batches: Sequence[NDArray[Any]], name: str) -> None:
        self._left: Iterator[NDArray[Any]] = iter(batches)
        self._name = name

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        batch = next(self._left, None)
        return None if batch is None else {self._name: batch}


def _prepared(graph: bytes, folder: Path) -> Any:
    """The model with constants folded, a shape for each tensor, and a name for each node."""
    given, made = folder / "given.onnx", folder / "prepared.onnx"
    given.write_bytes(graph)
    quant_pre_process(given, made, skip_symbolic_shape=True)
    model = onnx.load(made)
    for number, node in enumerate(model.graph.node, start=1):
        node.name = f"{number}-{node.op_type}"
    return model


def _without_copies(model: Any) -> Any:
    """The model without pools over one pixel, which change no value: they keep a layout that only float32 has."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    returned = {output.name for output in graph.output}
    for pool in [node for node in graph.node if node.op_type == "MaxPool"]:
        sizes = {each.name: set(each.ints) for each in pool.attribute}
        if sizes["kernel_shape"] == sizes.get("strides", {1}) == {1} and returned.isdisjoint(pool.output):
            for node in graph.node:
                node.input[:] = [pool.input[0] if name == pool.output[0] else name for name in node.input]
            graph.node.remove(pool)
    return made


def _quantisable(graph: Any) -> tuple[Sequence[str], Collection[str]]:
    """Names of the layers that may be in int8, from input to output, and of all nodes that never are.

    The last layer before an exit's answer never is, nor what follows it: its few numbers decide how sure the exit is.
    Neither is what turns pixels, or a bottleneck's code, into what the first layer takes.
    """
    constants = {tensor.name for tensor in graph.initializer}
    judging, leads_on = set(), {"feature"}
    for node in reversed(graph.node):
        is_layer = _is_layer(node, constants)
        if is_layer and not leads_on.intersection(node.output):
            judging.add(node.name)
        if is_layer or leads_on.intersection(node.output):
            leads_on.update(node.input)
    given = graph.input[0]
    in_int8 = {given.name} if given.type.tensor_type.elem_type == TensorProto.FLOAT else set()
    layers, never = [], []
    for node in graph.node:
        if _is_layer(node, constants) and node.name not in judging:
            layers.append(node.name)
        elif node.op_type not in _BETWEEN or not in_int8.issuperset(set(node.input) - constants - {""}):
            never.append(node.name)
            continue
        in_int8.update(node.output)
    return layers, never


def _is_layer(node: Any, constants: Collection[str]) -> bool:
    return node.op_type in _LAYERS and len(node.input) > 1 and node.input[1] in constants


def _override(scale: Scale) -> dict[str, Any]:
    return {
        "quant_type": quantization.QuantType.QUInt8,
        "scale": np.array(scale.step, np.float32),
        "zero_point": np.array(scale.zero_point, np.uint8),
    }


def _take_levels(graph: Any, scale: Scale) -> None:
    """Let a graph that takes a feature in float32 take its levels."""
    given = graph.input[0]
    given.type.tensor_type.elem_type = TensorProto.UINT8
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] == given.name:
            # The quantiser has made levels of the feature, with the scale that they have already.
            levels = node.output[0]
            for other in graph.node:
                other.input[:] = [given.name if name == levels else name for name in other.input]
            graph.node.remove(node)
            return
    constants: dict[str, NDArray[Any]] = {
        "taken_step": np.array(scale.step, np.float32),
        "taken_zero_point": np.array(scale.zero_point, np.uint8),
    }
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    for node in graph.node:
        node.input[:] = ["taken" if name == given.name else name for name in node.input]
    graph.node.insert(0, helper.make_node("DequantizeLinear", [given.name, *constants], ["taken"]))


def _hand_on_levels(graph: Any) -> Scale | None:
    """Let a graph return the levels of its feature, if that is what it computes."""
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.output[0] == "feature":
            break
    else:
        return None
    levels, step, zero_point = node.input
    names = {"feature": "feature_values", levels: "feature"}
    for other in graph.node:
        other.input[:] = [names.get(name, name) for name in other.input]
        other.output[:] = [names.get(name, name) for name in other.output]
    output = next(each for each in graph.output if each.name == "feature")
    output.type.tensor_type.elem_type = TensorProto.UINT8
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    return Scale(step=float(constants[step]), zero_point=int(constants[zero_point]))


def _serialised(model: Any) -> bytes:
    del model.metadata_props[:]
    del model.graph.value_info[:]
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))
