"""Runs ONNX graphs on ONNX Runtime while a file is taken apart, and tells which of their values an image decides."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from offramp.errors import ConfigError


def session_of(
    model: Any, outputs: Sequence[str] = (), options: onnxruntime.SessionOptions | None = None
) -> onnxruntime.InferenceSession:
    """The model on ONNX Runtime's CPU provider; with `outputs`, these tensors are its outputs.

    Raises:
        ConfigError: ONNX Runtime cannot run it.
    """
    if outputs:
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        del changed.graph.output[:]
        changed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
        model = changed
    options = options or onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise ConfigError(
            f"ONNX Runtime cannot run the file: {first_line(error)}; export it again, with the standard operators"
        ) from error


def values_of(model: Any, names: Sequence[str], images: NDArray[np.float32]) -> Mapping[str, NDArray[Any]]:
    """What some tensors of a graph are for a batch of images.

    Raises:
        ConfigError: the graph fails on these images.
    """
    if not names:
        return {}
    ran = session_of(model, names)
    try:
        results = ran.run(None, {ran.get_inputs()[0].name: images})
    except Exception as error:
        raise ConfigError(
            f"the file fails on {len(images)} images of shape {images.shape[1:]}: {first_line(error)}; export it for "
            "images of this shape, and for any number of them"
        ) from error
    return dict(zip(names, results, strict=True))


@dataclass(frozen=True)
class Dependence:
    """Which values of a graph depend on what the images show, and which only on how many images there are."""

    images: frozenset[str]
    count: frozenset[str]


def dependence(model: Any) -> Dependence:
    """Tell the values of a graph apart; those that it does not name are constants."""
    images, count = {model.graph.input[0].name}, set[str]()
    for node in model.graph.node:
        if images.intersection(node.input):
            (count if node.op_type in ("Shape", "Size") else images).update(node.output)
        elif count.intersection(node.input):
            count.update(node.output)
    return Dependence(frozenset(images), frozenset(count))


def keep_needed(model: Any) -> None:
    """Drop the nodes and constants that the outputs do not need."""
    needed = {output.name for output in model.graph.output}
    kept = []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    weights = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    kept.reverse()
    _set(model.graph.node, kept)
    _set(model.graph.initializer, weights)


def _set(field: Any, values: Sequence[Any]) -> None:
    copies = [copy.deepcopy(value) for value in values]
    del field[:]
    field.extend(copies)


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its kind if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
