"""Settles what an ONNX graph computes from shapes, so that a part of it needs no other tensor than its own input.

An exporter writes a shape as a chain of Shape, Gather and Concat, which would hold on to tensors from before a cut. For
images of one size such a value is a · B + c, element by element, so it is computed from the number of images B alone.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from offramp.authoring.backbones.onnx.run import dependence, keep_needed, values_of

COUNT = "offramp_samples"
"""Name of the tensor, int64 of shape (1,), that holds B in every settled graph."""

_BATCHES = (2, 3, 5)


def count_of(name: str) -> Any:
    """The node that reads B from a tensor whose first dimension it is."""
    return helper.make_node("Shape", [name], [COUNT], name=COUNT, start=0, end=1)


def settle_sizes(model: Any, image_shape: tuple[int, int, int]) -> None:
    """Replace every value that only the number of images decides by one that is computed from `COUNT`, in place.

    Raises:
        ConfigError: the graph fails on a batch.
    """
    names = sorted(dependence(model).count - {COUNT})
    found = [values_of(model, names, np.zeros((batch, *image_shape), np.float32)) for batch in _BATCHES]
    made: list[Any] = []
    settled: set[str] = set()
    for name in names:
        nodes = _from_count(model, name, [values[name] for values in found])
        if nodes is not None:
            settled.add(name)
            made += nodes
    for node in model.graph.node:
        node.output[:] = [f"{name}_replaced" if name in settled else name for name in node.output]
    nodes = [node for node in model.graph.node if COUNT not in node.output]
    copies = [copy.deepcopy(node) for node in (count_of(model.graph.input[0].name), *made, *nodes)]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    _leave_one_open(model)
    keep_needed(model)


def _from_count(model: Any, name: str, values: list[Any]) -> list[Any] | None:
    """Nodes that compute a value from B; none if it is a constant, which is added; None if it is not so simple."""
    first, second, third = values
    if not all(isinstance(value, np.ndarray) and value.shape == first.shape for value in values):
        return None
    if np.array_equal(first, second) and np.array_equal(first, third):
        _add_constant(model, name, first)
        return []
    if first.dtype != np.int64 or not np.array_equal(third - second, 2 * (second - first)):
        return None
    slope = second - first
    _add_constant(model, f"{name}_slope", slope.reshape(-1))
    _add_constant(model, f"{name}_rest", (first - _BATCHES[0] * slope).reshape(-1))
    _add_constant(model, f"{name}_shape", np.array(first.shape, np.int64))
    return [
        helper.make_node("Mul", [COUNT, f"{name}_slope"], [f"{name}_scaled"]),
        helper.make_node("Add", [f"{name}_scaled", f"{name}_rest"], [f"{name}_flat"]),
        helper.make_node("Reshape", [f"{name}_flat", f"{name}_shape"], [name]),
    ]


def _leave_one_open(model: Any) -> None:
    """Reshape to (-1, …) where the number of images decides one side, which every runtime does faster."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "Reshape" or f"{node.input[1]}_slope" not in constants:
            continue
        slope, rest = (_value(constants[f"{node.input[1]}_{part}"]) for part in ("slope", "rest"))
        is_open = slope > 0
        if is_open.sum() == 1 and (rest[is_open] == 0).all() and (rest[~is_open] > 0).all():
            name = f"{node.input[1]}_open"
            if name not in constants:
                constants[name] = _add_constant(model, name, np.where(is_open, -1, rest))
            node.input[1] = name


def _value(tensor: Any) -> NDArray[Any]:
    value: NDArray[Any] = numpy_helper.to_array(tensor)
    return value


def _add_constant(model: Any, name: str, value: NDArray[Any]) -> Any:
    tensor = numpy_helper.from_array(np.ascontiguousarray(value), name)
    model.graph.initializer.append(tensor)
    return tensor
