"""A new last layer for a backbone that was trained for other classes.

Shapes: K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from offramp.authoring.backbones.graph import BackboneGraph
from offramp.authoring.networks.early_exit import EarlyExitNetwork
from offramp.errors import ConfigError

_ATEN = torch.ops.aten
_INSTEAD = "replace the last layer in the model yourself and leave num_classes out"
# What may stand between the last layer and the logits; none of it knows the number of classes.
_AFTER = {
    _ATEN.flatten.using_ints, _ATEN.reshape.default, _ATEN.squeeze.dim, _ATEN.squeeze.dims, _ATEN.squeeze.default,
    _ATEN.mean.dim, _ATEN.adaptive_avg_pool2d.default, _ATEN.avg_pool2d.default, _ATEN.relu.default,
    _ATEN.log_softmax.int, _ATEN.softmax.int, _ATEN.contiguous.default, _ATEN.dropout.default,
}  # fmt: skip


@dataclass(frozen=True)
class Head:
    """The last layer of a backbone, and the untrained one that will replace it."""

    node: fx.Node
    layer: nn.Module
    num_classes: int

    def replace(self, graph: BackboneGraph) -> None:
        """Put the new layer into the graph."""
        module = graph.module
        module.add_submodule("new_head", self.layer)
        with module.graph.inserting_before(self.node):
            new = module.graph.call_module("new_head", (self.node.args[0],))
        new.meta = self.node.meta
        self.node.replace_all_uses_with(new)
        module.graph.erase_node(self.node)

    def check(self, network: EarlyExitNetwork, image_shape: tuple[int, int, int]) -> None:
        """Check that the last exit has the new number of classes.

        Raises:
            ConfigError: the code after the last layer works for the old number only.
        """
        last = network.num_exits
        try:
            with torch.no_grad():
                logits_BK = network.logits_at(torch.zeros(2, *image_shape), [last])[last]
        except RuntimeError:
            logits_BK = torch.empty(0)
        if logits_BK.shape != (2, self.num_classes):
            raise ConfigError(
                "num_classes cannot replace the last layer: what follows it is written for the old number of classes; "
                f"{_INSTEAD}"
            )


def head_for(graph: BackboneGraph, num_classes: int) -> Head:
    """The last layer of a backbone with an untrained one for K classes; the graph's cost is the new one's from now on.

    Raises:
        ConfigError: the logits do not come from a linear layer or a 1 x 1 convolution, or K is below 2.
    """
    if num_classes < 2:
        raise ConfigError(f"num_classes is {num_classes}, expected 2 or more")
    node = _last_layer(graph)
    old, width = _weight(node).meta["val"].shape[:2]
    is_linear = node.target is _ATEN.linear.default
    layer = nn.Linear(width, num_classes) if is_linear else nn.Conv2d(width, num_classes, 1)
    graph.macs[node] = graph.macs[node] * num_classes // old
    return Head(node, layer, num_classes)


def ends_in_softmax(graph: BackboneGraph) -> bool:
    """Whether a backbone returns probabilities."""
    return graph.logits.target is _ATEN.softmax.int


def _last_layer(graph: BackboneGraph) -> fx.Node:
    node = graph.logits
    while node.target in _AFTER or _is_dropout(graph, node):
        node = node.all_input_nodes[0]
    is_linear = node.target is _ATEN.linear.default
    is_whole = node.args[6:] in ((), (1,))  # not in groups
    is_conv = (
        node.target is _ATEN.conv2d.default and _weight(node).meta["val"].shape[2:] == (1, 1) and is_whole
    )
    if not (is_linear or is_conv) or _weight(node).op != "get_attr":
        raise ConfigError(
            f"num_classes cannot replace the last layer: the backbone's logits come from {_called(node)}, expected one "
            f"linear layer or 1 x 1 convolution with weights of its own; {_INSTEAD}"
        )
    return node


def _is_dropout(graph: BackboneGraph, node: fx.Node) -> bool:
    return node.op == "call_module" and isinstance(graph.module.get_submodule(str(node.target)), nn.Dropout)


def _weight(node: fx.Node) -> fx.Node:
    weight = node.args[1]
    assert isinstance(weight, fx.Node) and isinstance(weight.meta["val"], Tensor)
    return weight


def _called(node: fx.Node) -> str:
    return getattr(node.target, "__name__", str(node.target)).split(".")[0]
