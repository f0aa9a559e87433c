"""Traces an ordinary torch classifier with torch.export; blocks cut from its graph train and run like any module.

Shapes: B samples, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.utils.flop_counter import FlopCounterMode

from offramp.authoring.backbones.aliases import any_layout, without_writes
from offramp.authoring.backbones.graph import BackboneGraph
from offramp.authoring.backbones.putting_back import inline_without_gradients, put_back
from offramp.authoring.backbones.rehearsal import Random, in_mode, marked
from offramp.authoring.networks.classifier import LogitsOnly, first_line, line_of
from offramp.errors import ConfigError


def exported(model: nn.Module, image_shape: tuple[int, int, int], random: Random) -> ExportedProgram:
    """A classifier as a program of torch.export, for any number of images, however it is written.

    Args:
        model: normalised pixels (B, C, H, W) -> logits (B, K), as `LogitsOnly` picks them.
        image_shape: (C, H, W).
        random: what it draws at random in training, to be marked.

    Raises:
        ConfigError: its control flow depends on the values of the image or on the number of images. The message names
            the line.
    """
    try:
        with in_mode(model, training=False), marked(random), torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter, about its own internals
            return torch.export.export(
                LogitsOnly(model),
                (torch.zeros(2, *image_shape),),
                dynamic_shapes=({0: torch.export.Dim("samples", min=1)},),
                strict=False,
            )
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"the backbone cannot be traced{line_of(error)}: {first_line(error)}; {_advice(error)}"
        ) from error


def _advice(error: Exception) -> str:
    if "Inference tensors" in str(error):
        return "write torch.no_grad instead of torch.inference_mode"
    return (
        "its control flow must not depend on the image or on the number of images: replace `if` on a tensor by "
        "torch.where, and a fixed number of images or a loop over them by operations on x.shape[0] images"
    )


def is_exported(model: object, image_shape: tuple[int, int, int]) -> bool:
    """Whether this is a program as `exported` makes it, for images of this shape."""
    if not isinstance(model, ExportedProgram):
        return False
    (image,) = (node for node in model.graph.nodes if node.name in model.graph_signature.user_inputs)
    answer: Any = model.graph.output_node().args[0]
    logits = answer[0].meta["val"] if len(answer) == 1 else None
    is_alone = model.call_spec.out_spec is not None and model.call_spec.out_spec.is_leaf()
    return (
        is_alone and isinstance(logits, Tensor) and logits.ndim == 2
        and image.meta["val"].shape[1:] == tuple(image_shape)
    )  # fmt: skip


def backbone_graph(program: ExportedProgram, image_shape: tuple[int, int, int]) -> BackboneGraph:
    """The graph of an exported classifier, with modules for everything that differs in training.

    Raises:
        ConfigError: it writes into tensors in a way that cannot be cut, or nothing in it costs a multiplication.
    """
    module = program.module()
    assert isinstance(module, fx.GraphModule)
    for node in list(module.graph.nodes):
        if node.op == "call_module" and not node.users:
            module.graph.erase_node(node)  # the exporter's own check of its input
    inline_without_gradients(module)
    without_writes(module)
    any_layout(module)
    put_back(module)
    # Such as an auxiliary classifier, whose answer nobody reads.
    module.graph.eliminate_dead_code()
    module.recompile()
    macs = _macs_by_node(module, image_shape)
    if not sum(macs.values()):
        raise ConfigError(
            "the backbone has no multiplications to share out: no convolution, linear layer or product of matrices; "
            "early exits would save nothing"
        )
    return BackboneGraph(module, macs)


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
