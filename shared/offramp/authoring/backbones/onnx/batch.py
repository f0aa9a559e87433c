"""Frees an ONNX graph that was exported for a single image, so that it takes any number of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from offramp.authoring.backbones.onnx.run import dependence, values_of
from offramp.authoring.backbones.onnx.sizes import COUNT, count_of


def free_batch(model: Any, image_shape: tuple[int, int, int]) -> None:
    """Let a graph for one image take B images, in place; whether its answers are right has to be checked.

    Where the exporter wrote 1 for B, in the shape of a Reshape or in a constant that is joined to a feature, B is put
    back.
    """
    of_images = dependence(model).images
    reshapes = [node for node in model.graph.node if node.op_type == "Reshape" and node.input[0] in of_images]
    made = values_of(model, [node.output[0] for node in reshapes], np.zeros((1, *image_shape), np.float32))
    for node in reshapes:
        shape = made[node.output[0]].shape
        if shape:
            name = f"{node.output[0]}_freed"
            freed = np.array([-1, *shape[1:]], np.int64)
            model.graph.initializer.append(numpy_helper.from_array(freed, name))
            node.input[1] = name
    _repeat_what_is_joined(model, of_images)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "samples"
    del model.graph.value_info[:]


def _repeat_what_is_joined(model: Any, of_images: frozenset[str]) -> None:
    """Repeat a constant for each image where it is joined to a feature, as a class token is."""
    constants = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    repeated: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type != "Concat" or not of_images.intersection(node.input):
            continue
        if helper.get_node_attr_value(node, "axis") in (0, -len(constants.get(node.input[0], ()))):
            continue
        for at, name in enumerate(node.input):
            if constants.get(name, ())[:1] == (1,):
                node.input[at] = repeated.setdefault(name, f"{name}_repeated")
    if not repeated:
        return
    first = [count_of(model.graph.input[0].name)]
    for name, new in repeated.items():
        rest = numpy_helper.from_array(np.array(constants[name][1:], np.int64), f"{name}_sides")
        model.graph.initializer.append(rest)
        first.append(helper.make_node("Concat", [COUNT, rest.name], [f"{name}_all_sides"], axis=0))
        first.append(helper.make_node("Expand", [name, f"{name}_all_sides"], [new]))
    for place, node in enumerate(first):
        model.graph.node.insert(place, node)
