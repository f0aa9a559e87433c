"""Traces an ordinary torch classifier with torch.export; blocks cut from its graph train and run like any module.

Shapes: B samples, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

import operator
import traceback
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from offramp.authoring.networks.graph import BackboneGraph
from offramp.errors import ConfigError

_ATEN = torch.ops.aten


def trace_backbone(model: nn.Module, image_shape: tuple[int, int, int]) -> BackboneGraph:
    """Trace a classifier with torch.export, however it is written.

    Args:
        model: normalised pixels (B, C, H, W) -> logits (B, K), as a tensor, the first of a tuple, or `.logits`.
        image_shape: (C, H, W).

    Raises:
        ConfigError: its control flow depends on the values of the image or on the number of samples; or it returns no
            logits. The message names the line.
    """
    wrapped = LogitsOnly(model.eval())
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
            f"the backbone cannot be traced{_line_of(error)}: {str(error).strip().splitlines()[0]}; its control flow "
            "must not depend on the image or on the number of images: replace `if` on a tensor by torch.where"
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


class LogitsOnly(nn.Module):
    """Wraps a classifier so that it returns only its logits (B, K); raises ConfigError if it has none."""

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
    """Batch norm with the weights of the one it replaces; it updates its statistics in training, not in inference."""

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
    # The graph was exported for inference. With modules for batch norm and dropout, its blocks can train as well.
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


def _line_of(error: BaseException) -> str:
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "/torch/" not in frame.filename and frame.filename != __file__
    ]
    return f" at {frames[-1].filename}:{frames[-1].lineno}, `{frames[-1].line}`" if frames else ""
