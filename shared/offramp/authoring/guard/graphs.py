"""Where a guard sits in a block's graph, what it sees there, and how it is added.

It sees the tensor from which both the feature and the EEC's answer are computed, as two numbers for each channel: the
mean over all positions, and the fourth root of the mean square. The roots make small values count: a flat picture
differs from others by what is missing. Shapes: D such numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from offramp.authoring.guard.gaussian import Gaussian
from offramp.errors import BundleError

_SEEN = "guard_seen"


def watched(graph: bytes) -> bytes:
    """The graph with one output more, `guard_seen` (B, D): what a guard would see.

    Raises:
        BundleError: a guard cannot be added to this graph.
    """
    model = onnx.load_from_string(graph)
    _add_seen(model)
    model.graph.output.append(
        helper.make_tensor_value_info(_SEEN, onnx.TensorProto.FLOAT, ["samples", "numbers"])
    )
    return _serialised(model)


def guarded(graph: bytes, gaussian: Gaussian) -> bytes:
    """The graph with one output more, `distance` (B,): how far a sample is from those that are known, the limit at 1.

    What it returned before is unchanged, bit for bit.
    """
    model = onnx.load_from_string(graph)
    _add_seen(model)
    constants = {
        "guard_weights": gaussian.weights_DD,
        "guard_bias": gaussian.bias_D,
        "guard_axis": np.array([1], dtype=np.int64),
    }
    _add_constants(model, constants)
    model.graph.node.extend(
        [
            helper.make_node("Gemm", [_SEEN, "guard_weights", "guard_bias"], ["guard_whitened"]),
            helper.make_node("ReduceSumSquare", ["guard_whitened", "guard_axis"], ["distance"], keepdims=0),
        ]
    )
    samples = model.graph.output[0].type.tensor_type.shape.dim[0].dim_param or "samples"
    model.graph.output.append(helper.make_tensor_value_info("distance", onnx.TensorProto.FLOAT, [samples]))
    return _serialised(model)


def _add_seen(model: Any) -> None:
    """Add the nodes that compute `guard_seen`."""
    tap, rank = _tap(model)
    if rank == 2:
        model.graph.node.append(helper.make_node("Identity", [tap], [_SEEN]))
        return
    # Channels come first in an image, (B, C, H, W), and last in a sequence of tokens, (B, T, C).
    positions = [1] if rank == 3 else list(range(2, rank))
    constants = {
        "guard_positions": np.array(positions, dtype=np.int64),
        "guard_two": np.float32(2),
        "guard_quarter": np.float32(0.25),
    }
    _add_constants(model, constants)
    model.graph.node.extend(
        [
            helper.make_node("ReduceMean", [tap, "guard_positions"], ["guard_mean"], keepdims=0),
            # ReduceL2 would be a single node, but ONNX Runtime takes four times as long for it; and a Mul it would run
            # in the layout of its convolutions, and convert the whole result.
            helper.make_node("Pow", [tap, "guard_two"], ["guard_squares"]),
            helper.make_node("ReduceMean", ["guard_squares", "guard_positions"], ["guard_power"], keepdims=0),
            helper.make_node("Pow", ["guard_power", "guard_quarter"], ["guard_size"]),
            helper.make_node("Concat", ["guard_mean", "guard_size"], [_SEEN], axis=1),
        ]
    )


def _tap(model: Any) -> tuple[str, int]:
    """The deepest tensor that both the feature and the EEC's answer need, and its rank.

    Of a feature in int8, those are the values that its levels stand for.
    """
    graph = model.graph
    shapes = onnx.shape_inference.infer_shapes(model).graph
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*shapes.value_info, *shapes.input, *shapes.output)
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] == "feature":
            return node.output[0], ranks[node.output[0]]
    shared = _needed_for(graph, "feature") & _needed_for(graph, "probabilities")
    for node in reversed(graph.node):
        for name in node.output:
            if name in shared and ranks.get(name, 0) >= 2:
                return name, ranks[name]
    raise BundleError(
        "its feature and its exit share no tensor, so a guard has nothing to look at; export it again"
    )


def _needed_for(graph: Any, output: str) -> set[str]:
    """The names of all tensors that an output is computed from, itself included; not those of constants."""
    given = {value.name for value in graph.input}
    needed, varies = {output}, set(given)
    for node in graph.node:
        if varies.intersection(node.input):
            varies.update(node.output)
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
    return needed & varies


def _add_constants(model: Any, constants: dict[str, Any]) -> None:
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )


def _serialised(model: Any) -> bytes:
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def outputs_of(graph: bytes) -> Sequence[str]:
    """The names of what a graph returns."""
    return [output.name for output in onnx.load_from_string(graph).graph.output]
