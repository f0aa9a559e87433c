"""Stores the weights of a block's graph in fewer bits, which makes the file small; all is still computed in float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Weights = Literal["float32", "float16", "int8"]
_LARGEST = float(np.finfo(np.float16).max)
_LEVELS = 127


def stored(graph: bytes, weights: Weights) -> bytes:
    """The same graph with its large weights rounded; a runtime turns them into float32 once, when it loads them.

    Only tensors of two or more dimensions are rounded: biases take little room. float16 rounds each value; int8 rounds
    to 127 levels on either side of 0, with a scale of its own for each row of the tensor, which is each output channel
    of a convolution. A tensor with values beyond the range of float16 stays as it is.
    """
    if weights == "float32":
        return graph
    model = onnx.load_from_string(graph)
    nodes: list[Any] = []
    for tensor in list(model.graph.initializer):
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.ndim < 2 or not values.size:
            continue
        if np.abs(values).max() > _LARGEST:
            continue
        pack = _float16 if weights == "float16" else _int8
        tensors, made = pack(tensor.name, values)
        model.graph.initializer.remove(tensor)
        model.graph.initializer.extend(tensors)
        nodes += made
    for node in reversed(nodes):
        model.graph.node.insert(0, node)
    onnx.checker.check_model(model)
    smaller: bytes = model.SerializeToString(deterministic=True)
    return smaller


def _float16(name: str, values: NDArray[np.float32]) -> tuple[Sequence[Any], Sequence[Any]]:
    """The rounded tensor, and the node that brings it back under its name."""
    packed = f"{name}_float16"
    cast = helper.make_node("Cast", [packed], [name], to=TensorProto.FLOAT)
    return [numpy_helper.from_array(values.astype(np.float16), packed)], [cast]


def _int8(name: str, values: NDArray[np.float32]) -> tuple[Sequence[Any], Sequence[Any]]:
    """The levels, their scales, and the nodes that bring the tensor back under its name."""
    packed, scales, whole = f"{name}_int8", f"{name}_scale", f"{name}_levels"
    others = tuple(range(1, values.ndim))
    scale = np.abs(values).max(axis=others, keepdims=True) / _LEVELS
    scale = np.where(scale > 0, scale, 1).astype(np.float32)
    levels = np.rint(values / scale).astype(np.int8)
    tensors = [numpy_helper.from_array(levels, packed), numpy_helper.from_array(scale, scales)]
    # Not DequantizeLinear, which ONNX Runtime keeps for quantised operators instead of computing it once.
    cast = helper.make_node("Cast", [packed], [whole], to=TensorProto.FLOAT)
    return tensors, [cast, helper.make_node("Mul", [whole, scales], [name])]
