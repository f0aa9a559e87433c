"""Joins ONNX models into one, each taking what the one before it returns first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
from onnx import compose, helper

from offramp.errors import BundleError


def joined(models: Sequence[Any]) -> Any:
    """One model that runs several, one after the other.

    Every name gets the number of its model as a prefix. The outputs of the last two models are outputs: those of the
    last, and before them the first of the one before, which the last one takes.

    Raises:
        BundleError: the models have different opsets and cannot be brought to the same one.
    """
    opset = max(_opset_of(model) for model in models)
    aligned = [
        compose.add_prefix(_at_opset(model, opset), f"{number}/") for number, model in enumerate(models)
    ]
    whole = onnx.ModelProto(ir_version=max(model.ir_version for model in models))
    whole.graph.name = "block"
    whole.graph.input.append(aligned[0].graph.input[0])
    domains = {one.domain: one.version for model in models for one in model.opset_import if one.domain}
    whole.opset_import.extend(
        helper.make_opsetid(domain, version) for domain, version in {"": opset, **domains}.items()
    )
    taken = None
    for model in aligned:
        if taken is not None:
            _feed(model, taken)
        whole.graph.node.extend(model.graph.node)
        whole.graph.initializer.extend(model.graph.initializer)
        taken = model.graph.output[0].name
    whole.graph.output.extend(output for model in aligned[-2:-1] for output in model.graph.output[:1])
    whole.graph.output.extend(aligned[-1].graph.output)
    return whole


def rename(graph: Any, old: str, new: str) -> None:
    """Give a tensor of a graph another name."""
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
    for value in (*graph.input, *graph.output):
        value.name = new if value.name == old else value.name


def _feed(model: Any, taken: str) -> None:
    given = model.graph.input[0].name
    for node in model.graph.node:
        node.input[:] = [taken if name == given else name for name in node.input]


def _opset_of(model: Any) -> int:
    return next(int(one.version) for one in model.opset_import if not one.domain)


def _at_opset(model: Any, version: int) -> Any:
    found = _opset_of(model)
    if found == version:
        return model
    try:
        return onnx.version_converter.convert_version(model, version)
    except Exception as error:
        raise BundleError(
            f"a part of the block has opset {found} and cannot be brought to {version}, which the other parts have: "
            f"{error}; export the ONNX file again with opset {found} or older"
        ) from error
