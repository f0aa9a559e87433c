"""Stores the weights of a block's graph as float16, which halves the file; everything is still computed in float32."""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Weights = Literal["float32", "float16"]
_LARGEST = float(np.finfo(np.float16).max)


def stored(graph: bytes, weights: Weights) -> bytes:
    """The same graph with its weights as they are to be stored."""
    return halved(graph) if weights == "float16" else graph


def halved(graph: bytes) -> bytes:
    """The same graph with its large weights rounded to float16, each with a Cast that a runtime runs once, at loading.

    Only tensors of two or more dimensions are rounded: biases and normalisation take little room. A tensor with values
    beyond the range of float16 stays as it is.
    """
    model = onnx.load_from_string(graph)
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2:
            continue
        values = numpy_helper.to_array(tensor)
        if not values.size or np.abs(values).max() > _LARGEST:
            continue
        name, stored = tensor.name, f"{tensor.name}_float16"
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), stored))
        casts.append(helper.make_node("Cast", [stored], [name], to=TensorProto.FLOAT))
    for node in reversed(casts):
        model.graph.node.insert(0, node)
    onnx.checker.check_model(model)
    smaller: bytes = model.SerializeToString(deterministic=True)
    return smaller
