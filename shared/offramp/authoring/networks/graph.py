"""The graph of an ordinary torch classifier: what it computes, what that costs, and where it can be cut.

A cut is a place after which exactly one tensor that depends on the image is still needed: that tensor is all that
has to travel. It is found in torch.export's graph, not from the names of modules.
"""

from __future__ import annotations

import operator
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from offramp.errors import ConfigError

_ATEN = torch.ops.aten


@dataclass(frozen=True, eq=False)
class Cut:
    """A place where the backbone can be cut.

    node: of the tensor that travels on. share: of the backbone's cost that lies before, 0 to 1. macs: the same in
    multiplications. feature_shape: of the tensor, without the batch.
    """

    node: fx.Node
    share: float
    macs: int
    feature_shape: tuple[int, ...]


@dataclass(frozen=True)
class Origin:
    """How a backbone was cut.

    cuts: all places where it could be. chosen: those that were taken, shallow to deep. difference: largest absolute
    difference between the logits of the backbone and those of its blocks in a row, on random images.
    """

    cuts: tuple[Cut, ...]
    chosen: tuple[Cut, ...]
    difference: float


@dataclass(frozen=True, eq=False)
class BackboneGraph:
    """A traced classifier: from normalised pixels (B, C, H, W) to logits (B, K)."""

    module: fx.GraphModule
    macs: dict[fx.Node, int]

    @property
    def image(self) -> fx.Node:
        """What goes in."""
        image: fx.Node = next(node for node in self.module.graph.nodes if node.op == "placeholder")
        return image

    @property
    def logits(self) -> fx.Node:
        """What comes out."""
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
        """Names of the tensors that are all needed where the graph is widest, at most five."""
        at = {node: number for number, node in enumerate(self.module.graph.nodes)}
        carried = [
            (node, max((at[user] for user in node.users), default=-1)) for node in at if self._carries(node)
        ]
        live = [
            [node.name for node, until in carried if at[node] <= number < until] for number in at.values()
        ]
        return max(live, key=len)[:5]

    def _carries(self, node: fx.Node) -> bool:
        """Whether a node's value is a tensor, or several, computed from the image."""
        return node.op != "output" and self._depends[node]

    @cached_property
    def _depends(self) -> dict[fx.Node, bool]:
        """Whether a value depends on what the image shows; its size alone is known everywhere."""
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
                # The number of samples is known wherever a feature is.
                copies[node] = graph.call_function(_ATEN.sym_size.int, (copies[start], 0))
            else:
                copies[node] = graph.node_copy(node, copies.__getitem__)
        graph.output(copies[stop])
        return fx.GraphModule(self.module, graph)


def trace_backbone(model: nn.Module, image_shape: tuple[int, int, int]) -> BackboneGraph:
    """Export a classifier with torch.export, whatever it is made of.

    Args:
        model: normalised pixels (B, C, H, W) -> logits (B, K), as a tensor, the first of a tuple, or `.logits`.
        image_shape: (C, H, W).

    Raises:
        ConfigError: its path depends on the values of the image, or on the number of samples; or it returns no
            logits. The message names the line.
    """
    wrapped = Logits(model.eval())
    _check_runs(wrapped, image_shape)
    try:
        with torch.no_grad():
            program = torch.export.export(
                wrapped,
                (torch.zeros(2, *image_shape),),
                dynamic_shapes=({0: torch.export.Dim("samples", min=1)},),
                strict=False,
            )
    except Exception as error:
        raise ConfigError(
            f"the backbone cannot be traced{_line_of(error)}: {str(error).strip().splitlines()[0]}; its path must not "
            "depend on what the image shows or on how many images there are: replace `if` on a tensor by torch.where"
        ) from error
    module = program.module()
    assert isinstance(module, fx.GraphModule)
    _put_back_what_differs_in_training(module)
    return BackboneGraph(module, _macs_by_node(module, image_shape))


def _check_runs(model: nn.Module, image_shape: tuple[int, int, int]) -> None:
    try:
        with torch.no_grad():
            model(torch.zeros(2, *image_shape))
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"the backbone fails on an image of shape {image_shape}{_line_of(error)}: {error}; "
            "give the shape (C, H, W) it was made for"
        ) from error


class Logits(nn.Module):
    """Any classifier, returning a tensor of logits (B, K) and nothing else; ConfigError if it has none."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Pick the logits from what the classifier returns."""
        answer = self.model(image_BCHW)
        logits_BK = getattr(answer, "logits", answer[0] if isinstance(answer, tuple | list) else answer)
        if not isinstance(logits_BK, Tensor) or logits_BK.ndim != 2:
            shape = tuple(logits_BK.shape) if isinstance(logits_BK, Tensor) else type(logits_BK).__name__
            raise ConfigError(
                f"the backbone returns {shape}, expected logits (B, K), alone, first in a tuple, or as `.logits`"
            )
        return logits_BK


class _BatchNorm(nn.Module):
    """Batch norm that counts in training and does not in inference, with the weights of the one it stands for."""

    def __init__(self, parts: Sequence[Tensor | None], momentum: float, eps: float) -> None:
        super().__init__()
        self.weight: nn.Parameter | None
        self.bias: nn.Parameter | None
        self.running_mean: Tensor | None
        self.running_var: Tensor | None
        for name, part in zip(("weight", "bias"), parts[:2], strict=True):
            self.register_parameter(name, part if isinstance(part, nn.Parameter) else None)
        for name, part in zip(("running_mean", "running_var"), parts[2:], strict=True):
            self.register_buffer(name, part)
        self.momentum, self.eps = momentum, eps

    def forward(self, feature: Tensor) -> Tensor:
        return functional.batch_norm(
            feature,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            self.momentum,
            self.eps,
        )


def _put_back_what_differs_in_training(module: fx.GraphModule) -> None:
    # A graph has inference compiled in. Modules in these two places let blocks learn and answer, as any module does.
    for node in list(module.graph.nodes):
        if node.target is _ATEN.batch_norm.default:
            parts = [
                None if arg is None else operator.attrgetter(arg.target)(module) for arg in node.args[1:5]
            ]
            _replace(module, node, _BatchNorm(parts, momentum=node.args[6], eps=node.args[7]))
        elif node.target is _ATEN.dropout.default:
            _replace(module, node, nn.Dropout(node.args[1]))
        elif node.op == "call_module" and not node.users:
            module.graph.erase_node(node)  # the exporter's own check of its input


def _replace(module: fx.GraphModule, node: fx.Node, part: nn.Module) -> None:
    module.add_submodule(node.name, part)
    with module.graph.inserting_before(node):
        new = module.graph.call_module(node.name, (node.args[0],))
    new.meta = node.meta
    node.replace_all_uses_with(new)
    module.graph.erase_node(node)


def _macs_by_node(module: fx.GraphModule, image_shape: tuple[int, int, int]) -> dict[fx.Node, int]:
    counted: dict[fx.Node, int] = {}

    class Counting(fx.Interpreter):
        def run_node(self, node: fx.Node) -> Any:
            with FlopCounterMode(display=False) as counter:
                result = super().run_node(node)
            counted[node] = counter.get_total_flops() // 2
            return result

    for part in module.children():
        _leave_training(part)
    with torch.no_grad():
        Counting(module).run(torch.zeros(1, *image_shape))
    return counted


def _leave_training(part: nn.Module) -> None:
    # The exported module itself refuses eval(); its parts do not.
    for child in part.modules():
        child.training = False


def _needed(stop: fx.Node, *, beyond: fx.Node) -> Iterator[fx.Node]:
    """All nodes on which `stop` depends but not through `beyond`, in the order of the graph."""
    wanted, waiting = set[fx.Node](), [stop]
    while waiting:
        node = waiting.pop()
        if node is not beyond and node not in wanted:
            wanted.add(node)
            # Sizes are looked up anew: what they were taken from need not be there.
            waiting += [] if isinstance(node.meta.get("val"), torch.SymInt) else node.all_input_nodes
    return (node for node in stop.graph.nodes if node in wanted)


def _first(value: Any) -> Any:
    while isinstance(value, tuple | list):
        value = value[0]
    return value


def _line_of(error: BaseException) -> str:
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "/torch/" not in frame.filename and frame.filename != __file__
    ]
    return f" at {frames[-1].filename}:{frames[-1].lineno}, `{frames[-1].line}`" if frames else ""
