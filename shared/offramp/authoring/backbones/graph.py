"""The graph of an ordinary torch classifier: what it computes, what that costs, and where it can be cut.

A cut is a place after which exactly one tensor that depends on the image is still needed, so only that tensor has to
be sent. Cuts are found in torch.export's graph, not by the names of modules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, fx, nn

from offramp.authoring.networks.origin import Cut

_ATEN = torch.ops.aten
_SUMS = (_ATEN.add.Tensor, _ATEN.add_.Tensor)


class Graph(Protocol):
    """A classifier that can be cut, from normalised pixels (B, C, H, W) to logits (B, K).

    image, logits: the nodes where it starts and ends. num_classes: K. macs: multiplications for one sample, by node.
    """

    @property
    def image(self) -> Any: ...  # noqa: D102 - told by the class
    @property
    def logits(self) -> Any: ...  # noqa: D102 - told by the class
    @property
    def num_classes(self) -> int: ...  # noqa: D102 - told by the class
    @property
    def macs(self) -> Mapping[Any, int]: ...  # noqa: D102 - told by the class

    def cuts(self) -> list[Cut]:
        """All places where a single tensor carries everything, from the image to the logits."""
        ...

    def crossing(self) -> list[str]:
        """Names of the tensors needed at the same time where the graph is widest, at most five."""
        ...

    def can_leave_out(self, start: Any, stop: Any) -> bool:
        """Whether an EEC that copies what follows `stop` can leave out what lies between: a residual block."""
        ...

    def block(self, start: Any, stop: Any) -> nn.Module:
        """The part of the graph that computes `stop` from `start`."""
        ...


@dataclass(frozen=True, eq=False)
class BackboneGraph:
    """A traced classifier: from normalised pixels (B, C, H, W) to logits (B, K)."""

    module: fx.GraphModule
    macs: dict[fx.Node, int]

    @property
    def image(self) -> fx.Node:
        """The node of the image."""
        image: fx.Node = next(node for node in self.module.graph.nodes if node.op == "placeholder")
        return image

    @property
    def logits(self) -> fx.Node:
        """The node of the logits."""
        answer = _first(self.module.graph.output_node().args)
        assert isinstance(answer, fx.Node)
        return answer

    @property
    def num_classes(self) -> int:
        """K."""
        return int(self.logits.meta["val"].shape[1])

    def cuts(self) -> list[Cut]:
        """All places where a single tensor carries everything, from the image to the logits."""
        last_use: dict[fx.Node, int] = {}
        at = {node: number for number, node in enumerate(self.module.graph.nodes)}
        for node in at:
            for needed in node.all_input_nodes:
                last_use[needed] = at[node]
        total = sum(self.macs.values())
        found: list[Cut] = []
        live, spent = set[fx.Node](), 0
        for node, number in at.items():
            spent += self.macs.get(node, 0)
            if self._carries(node):
                live.add(node)
            live = {one for one in live if last_use.get(one, -1) > number}
            if len(live) == 1:
                (only,) = live
                is_new = only is not self.image and (not found or found[-1].node is not only)
                if is_new and self._is_feature(only):
                    shape = tuple(int(side) for side in only.meta["val"].shape[1:])
                    found.append(Cut(only, spent / total, spent, shape))
        return [cut for cut in found if 0 < cut.macs < total and cut.node is not self.logits]

    def crossing(self) -> list[str]:
        """Names of the tensors needed at the same time where the graph is widest, at most five."""
        at = {node: number for number, node in enumerate(self.module.graph.nodes)}
        carried = [
            (node, max((at[user] for user in node.users), default=-1)) for node in at if self._carries(node)
        ]
        live = [
            [node.name for node, until in carried if at[node] <= number < until] for number in at.values()
        ]
        return max(live, key=len)[:5]

    def can_leave_out(self, start: fx.Node, stop: fx.Node) -> bool:
        """Whether `stop` is the sum of `start` and of what the layers between them make of it."""
        return stop.target in _SUMS and start in stop.args[:2]

    def _carries(self, node: fx.Node) -> bool:
        """Whether a node's value is a tensor, or several, computed from the image."""
        return node.op != "output" and self._depends[node]

    @cached_property
    def _depends(self) -> dict[fx.Node, bool]:
        """Whether each value depends on what the image shows; sizes do not count, as every block knows them."""
        depends: dict[fx.Node, bool] = {}
        for node in self.module.graph.nodes:
            is_size = isinstance(node.meta.get("val"), torch.SymInt | int)
            depends[node] = not is_size and (
                node is self.image or any(depends[needed] for needed in node.all_input_nodes)
            )
        return depends

    def _is_feature(self, node: fx.Node) -> bool:
        value = node.meta.get("val")
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.ndim < 2:
            return False
        samples = self.image.meta["val"].shape[0]
        return str(value.shape[0]) == str(samples) and all(isinstance(side, int) for side in value.shape[1:])

    def block(self, start: fx.Node, stop: fx.Node) -> fx.GraphModule:
        """The part of the graph that computes `stop` from `start`, as a module of its own that shares the weights."""
        graph = fx.Graph()
        copies = {start: graph.placeholder("feature")}
        samples = str(self.image.meta["val"].shape[0])
        for node in _needed(stop, beyond=start):
            if str(node.meta.get("val")) == samples:
                # The block reads the number of samples from its own input.
                copies[node] = graph.call_function(_ATEN.sym_size.int, (copies[start], 0))
            else:
                copies[node] = graph.node_copy(node, copies.__getitem__)
        graph.output(copies[stop])
        for node in graph.nodes:
            node.meta = {}  # traces of the export, which cannot be copied
        return fx.GraphModule(self.module, graph)


def _needed(stop: fx.Node, *, beyond: fx.Node) -> Iterator[fx.Node]:
    """All nodes that `stop` depends on other than through `beyond`, in the order of the graph."""
    wanted, waiting = set[fx.Node](), [stop]
    while waiting:
        node = waiting.pop()
        if node is not beyond and node not in wanted:
            wanted.add(node)
            # A block reads sizes from its own input, so it does not need the tensors they came from.
            waiting += [] if isinstance(node.meta.get("val"), torch.SymInt) else node.all_input_nodes
    return (node for node in stop.graph.nodes if node in wanted)


def _first(value: Any) -> Any:
    while isinstance(value, tuple | list):
        value = value[0]
    return value
