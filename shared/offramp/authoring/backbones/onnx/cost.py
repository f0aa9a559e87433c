"""Counts the multiplications of an ONNX graph, node by node, as `cost.py` does for torch modules."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from onnx import helper

Shape = tuple[int, ...]


def multiplies(node: Any) -> bool:
    """Whether a node is one of those whose multiplications count."""
    return node.op_type in _COUNTED


def macs_of(node: Any, shapes: Mapping[str, Shape]) -> int:
    """Multiplications of a node in one run.

    Args:
        node: one of those that count.
        shapes: of its inputs and its output in that run.
    """
    return _COUNTED[node.op_type](node, shapes)


def _conv(node: Any, shapes: Mapping[str, Shape]) -> int:
    # The weights have shape (n_out, n_in / groups, kernel…).
    return math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])


def _quantised_conv(node: Any, shapes: Mapping[str, Shape]) -> int:
    return math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[3]][1:])


def _conv_transpose(node: Any, shapes: Mapping[str, Shape]) -> int:
    return math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])


def _matmul(node: Any, shapes: Mapping[str, Shape]) -> int:
    return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]


def _gemm(node: Any, shapes: Mapping[str, Shape]) -> int:
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if transposed else -1]


def _einsum(node: Any, shapes: Mapping[str, Shape]) -> int:
    terms = helper.get_node_attr_value(node, "equation").decode().replace(" ", "").partition("->")[0]
    sides: dict[str, int] = {}
    for term, name in zip(terms.split(","), node.input, strict=True):
        sides.update(zip(reversed(term.replace("...", "")), reversed(shapes[name]), strict=False))
    return math.prod(sides.values()) if len(node.input) > 1 else 0


_COUNTED = {
    "Conv": _conv,
    "ConvInteger": _conv,
    "QLinearConv": _quantised_conv,
    "ConvTranspose": _conv_transpose,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "Gemm": _gemm,
    "Einsum": _einsum,
}
