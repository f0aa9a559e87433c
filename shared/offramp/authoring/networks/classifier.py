"""What counts as a classifier that can be traced, and a line about everything that does not.

Shapes: B samples, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from offramp.errors import ConfigError

_HERE = "offramp/authoring/"


class LogitsOnly(nn.Module):
    """Wraps a classifier so that it returns only its logits (B, K); raises ConfigError if it has none."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Pick the logits from what the classifier returns."""
        answer = _picked(self.model(image_BCHW))
        if isinstance(answer, Tensor) and answer.ndim > 2 and all(side == 1 for side in answer.shape[2:]):
            answer = answer.flatten(1)
        if not isinstance(answer, Tensor) or answer.ndim != 2:
            found = tuple(answer.shape) if isinstance(answer, Tensor) else _described(answer)
            raise ConfigError(
                f"the backbone returns {found}, expected logits (B, K), alone, first in a tuple, as `.logits`, or as "
                "'logits' in a dict; wrap it in a module that returns its logits"
            )
        if not answer.is_floating_point() or answer.shape[1] < 2:
            raise ConfigError(
                f"the backbone returns {answer.dtype} of shape {tuple(answer.shape)}, expected one logit for each of "
                "at least 2 classes; replace its last layer by one with 2 classes"
            )
        return answer


def as_classifier(model: object) -> nn.Module:
    """The module to trace: unwrapped from torch.compile or DataParallel, unlifted from an exported program.

    Raises:
        ConfigError: it cannot be traced because of what it is: TorchScript, quantised, in half precision, on another
            device than the CPU, or no module at all.
    """
    if isinstance(model, ExportedProgram):
        _check_program(model)
        return model.module()
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while isinstance(model, nn.Module) and (isinstance(model, wrappers) or hasattr(model, "_orig_mod")):
        model = model.module if isinstance(model, wrappers) else model._orig_mod  # noqa: SLF001 - of torch.compile
    if isinstance(model, torch.jit.ScriptFunction) or not isinstance(model, nn.Module):
        hint = (
            "build the model and load them into it" if isinstance(model, Mapping) else "wrap it in a module"
        )
        raise ConfigError(
            f"the backbone is a {type(model).__name__}, expected a torch.nn.Module or a program of torch.export; {hint}"
        )
    _check_modules(model)
    _check_weights(model)
    return model


def check_runs(model: nn.Module, image_shape: tuple[int, int, int]) -> None:
    """Run a classifier once.

    Raises:
        ConfigError: it fails, needs more than an image, or returns no logits.
    """
    if len(image_shape) != 3 or not all(isinstance(side, int) and side > 0 for side in image_shape):
        raise ConfigError(
            f"image_shape is {image_shape}, expected (channels, height, width), such as (3, 224, 224)"
        )
    try:
        with torch.no_grad():
            LogitsOnly(model)(torch.zeros(2, *image_shape))
    except ConfigError:
        raise
    except Exception as error:
        reason = first_line(error)
        if isinstance(error, TypeError) and "required positional argument" in reason:
            raise ConfigError(
                f"the backbone needs more than an image: {reason}; wrap it in a module that takes images alone"
            ) from error
        raise ConfigError(
            f"the backbone fails on an image of shape {image_shape}{line_of(error)}: {reason}; give the shape "
            "(C, H, W) it was made for"
        ) from error


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def line_of(error: BaseException) -> str:
    """Where an error arose outside torch, as ` at file:line, `code``; empty if that is not known."""
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if not is_ours_or_torch(frame.filename)
    ]
    return f" at {frames[-1].filename}:{frames[-1].lineno}, `{frames[-1].line}`" if frames else ""


def is_ours_or_torch(file: str) -> bool:
    """Whether a file of a traceback belongs to torch or to this package, not to the model."""
    return "/torch/" in file or _HERE in file.replace("\\", "/")


def _picked(answer: Any) -> Any:
    if isinstance(answer, Tensor):
        return answer
    if isinstance(answer, Mapping):
        return answer.get("logits", next(iter(answer.values())) if len(answer) == 1 else answer)
    if hasattr(answer, "logits"):
        return answer.logits
    return answer[0] if isinstance(answer, tuple | list) and answer else answer


def _described(answer: object) -> str:
    names = f" of {', '.join(map(str, answer))}" if isinstance(answer, Mapping) else ""
    return f"a {type(answer).__name__}{names}"


def _check_program(program: ExportedProgram) -> None:
    inputs = [
        node.meta["val"]
        for node in program.graph.nodes
        if node.op == "placeholder" and node.name in program.graph_signature.user_inputs
    ]
    if len(inputs) != 1 or not isinstance(inputs[0], Tensor):
        raise ConfigError(
            f"the exported program takes {len(inputs)} inputs, expected images (B, C, H, W) alone; wrap the model in a "
            "module that takes images alone, and export that"
        )
    if isinstance(inputs[0].shape[0], int):
        raise ConfigError(
            f"the exported program is for exactly {inputs[0].shape[0]} images; export it for any number, with "
            "dynamic_shapes=({0: torch.export.Dim('samples', min=1)},)"
        )


def _check_modules(model: nn.Module) -> None:
    for name, module in model.named_modules():
        called = f"its layer {name}" if name else "it"
        if isinstance(module, torch.jit.ScriptModule):
            raise ConfigError(
                f"the backbone cannot be traced: {called} is TorchScript, made by torch.jit.trace or torch.jit.script; "
                "give the module it was made from, or a program of torch.export"
            )
        if ".quantized" in type(module).__module__:
            raise ConfigError(
                f"the backbone cannot be cut: {called} is quantised ({type(module).__name__}); give the model as it "
                "was before quantisation"
            )


def _check_weights(model: nn.Module) -> None:
    for name, weight in [*model.named_parameters(), *model.named_buffers()]:
        if isinstance(weight, nn.UninitializedParameter | nn.UninitializedBuffer):
            continue
        if weight.device.type != "cpu":
            raise ConfigError(f"the weight {name} of the backbone is on {weight.device}; give model.cpu()")
        if weight.is_floating_point() and weight.dtype != torch.float32:
            raise ConfigError(
                f"the weight {name} of the backbone is {weight.dtype}, expected torch.float32; give model.float()"
            )
