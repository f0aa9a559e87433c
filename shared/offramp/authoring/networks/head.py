"""A new last layer for a backbone that was trained for other classes.

Shapes: K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from offramp.authoring.networks.graph import BackboneGraph
from offramp.errors import ConfigError

_ATEN = torch.ops.aten
# What may stand between the last layer and the logits; none of it knows the number of classes.
_AFTER = {
    _ATEN.flatten.using_ints, _ATEN.reshape.default, _ATEN.squeeze.dim, _ATEN.squeeze.dims, _ATEN.squeeze.default,
    _ATEN.mean.dim, _ATEN.adaptive_avg_pool2d.default, _ATEN.avg_pool2d.default, _ATEN.relu.default,
    _ATEN.log_softmax.int, _ATEN.softmax.int, _ATEN.contiguous.default, _ATEN.dropout.default,
}  # fmt: skip


def find_head(graph: BackboneGraph) -> fx.Node:
    """The linear layer, or 1 x 1 convolution, that makes the logits.

    Raises:
        ConfigError: something else makes them.
    """
    node = graph.logits
    while node.target in _AFTER or _is_dropout(graph, node):
        node = node.all_input_nodes[0]
    is_linear = node.target is _ATEN.linear.default
    is_conv = node.target is _ATEN.conv2d.default and _weight(node).meta["val"].shape[2:] == (1, 1)
    if not (is_linear or is_conv) or _weight(node).op != "get_attr":
        raise ConfigError(
            f"num_classes cannot replace the last layer: the backbone's logits come from {_called(node)}, expected one "
            "linear layer or 1 x 1 convolution with weights of its own; replace the last layer in the model yourself "
            "and leave num_classes out"
        )
    return node


def new_head(head: fx.Node, num_classes: int) -> nn.Module:
    """An untrained layer for K classes in place of the last one."""
    _, width = _weight(head).meta["val"].shape[:2]
    if head.target is _ATEN.linear.default:
        return nn.Linear(width, num_classes)
    return nn.Conv2d(width, num_classes, 1)


def replace_head(graph: BackboneGraph, head: fx.Node, layer: nn.Module) -> None:
    """Put a new layer into the graph of a backbone, in place of its last one."""
    module = graph.module
    module.add_submodule("new_head", layer)
    with module.graph.inserting_before(head):
        new = module.graph.call_module("new_head", (head.args[0],))
    new.meta = head.meta
    head.replace_all_uses_with(new)
    module.graph.erase_node(head)


def _is_dropout(graph: BackboneGraph, node: fx.Node) -> bool:
    return node.op == "call_module" and isinstance(graph.module.get_submodule(str(node.target)), nn.Dropout)


def _weight(node: fx.Node) -> fx.Node:
    weight = node.args[1]
    assert isinstance(weight, fx.Node) and isinstance(weight.meta["val"], Tensor)
    return weight


def _called(node: fx.Node) -> str:
    return getattr(node.target, "__name__", str(node.target)).split(".")[0]
