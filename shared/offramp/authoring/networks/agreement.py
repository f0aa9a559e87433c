"""Finds the module in which two runs of a network begin to disagree, and the reasons why a network is refused for it.

Shapes: B samples, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from offramp.authoring.networks.classifier import first_line, line_of
from offramp.errors import ConfigError

_RELATIVE, _ABSOLUTE = 1e-4, 1e-6
_ALONE = 2  # images that are also run one by one


def check_images_apart(
    model: nn.Module, image_shape: tuple[int, int, int], *, name: str, within: nn.Module | None = None
) -> None:
    """Check that an image gets the same answer twice, and the same alone as together with others.

    Args:
        model: in inference mode; images -> a tensor, or anything that holds tensors.
        image_shape: (C, H, W).
        name: of the model, for the message.
        within: the module whose parts the message names; `model` itself unless given.

    Raises:
        ConfigError: it does not, or it fails for another number of images; the message names the module.
    """
    image_BCHW, within = different_images(image_shape), within or model
    together = _answers(model, image_BCHW, name)
    if not alike(together, _answers(model, image_BCHW, name)):
        culprit = first_to_differ(model, image_BCHW, image_BCHW, within)
        raise ConfigError(
            f"{name} gives the same images another answer each time: {culprit} draws random numbers or keeps state, "
            "also in inference; let it do so in training only"
        )
    for number in range(_ALONE):
        one = image_BCHW[number : number + 1]
        if not alike([each[number : number + 1] for each in together], _answers(model, one, name)):
            others = torch.cat([one, image_BCHW[:number], image_BCHW[number + 1 :]])
            culprit = first_to_differ(model, others, one, within)
            raise ConfigError(
                f"{name} mixes the images of a batch: {culprit} answers differently for an image alone and for the "
                "same among others; normalise or pool over one image only, or with running statistics "
                "(track_running_stats=True)"
            )


def _answers(model: nn.Module, image_BCHW: Tensor, name: str) -> list[Tensor]:
    try:
        with torch.no_grad():
            return tensors_in(model(image_BCHW.clone()))
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{name} fails on {len(image_BCHW)} images{line_of(error)}: {first_line(error)}; let it take any number of "
            "images, with x.shape[0] instead of a fixed number"
        ) from error


def different_images(image_shape: tuple[int, int, int]) -> Tensor:
    """Four normalised images (4, C, H, W) that have little in common, always the same."""
    noise = torch.randn(4, *image_shape, generator=torch.Generator().manual_seed(0))
    return (
        noise * torch.tensor([1.0, 0.3, 3.0, 0.0])[:, None, None, None]
        + torch.tensor([0.0, 0.5, -1.0, 1.0])[:, None, None, None]
    )


def first_to_differ(model: nn.Module, first_BCHW: Tensor, second_BCHW: Tensor, within: nn.Module) -> str:
    """The innermost module that makes two runs differ first, as `name (Class)`.

    What it computes for fewer images is compared with as many of the others.
    """
    runs = [_recorded(model, images) for images in (first_BCHW, second_BCHW)]
    names = {module: name for name, module in within.named_modules()}
    for (module, one), (_, other) in zip(*runs, strict=False):
        count = min(one.shape[0], other.shape[0]) if one.ndim and other.ndim else None
        if one.shape[1:] == other.shape[1:] and not alike([one[:count]], [other[:count]]):
            return called(names[module], module) if module in names else called("", within)
    return called("", within)


def called(name: str, module: nn.Module) -> str:
    """A module in a message: its name, if it has one, and its class."""
    return f"{name} ({type(module).__name__})" if name else f"its own code ({type(module).__name__})"


def alike(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    """Whether two lists of tensors are the same but for rounding."""
    return len(first) == len(second) and all(
        one.shape == other.shape
        and float((one.double() - other.double()).abs().max() if one.numel() else 0)
        <= _ABSOLUTE + _RELATIVE * float(one.double().abs().max() if one.numel() else 0)
        for one, other in zip(first, second, strict=True)
    )


def tensors_in(answer: Any) -> list[Tensor]:
    """All tensors in whatever a network returns."""
    if isinstance(answer, Tensor):
        return [answer.detach()]
    if isinstance(answer, dict):
        answer = list(answer.values())
    return [each for part in answer for each in tensors_in(part)] if isinstance(answer, list | tuple) else []


def _recorded(model: nn.Module, image_BCHW: Tensor) -> list[tuple[nn.Module, Tensor]]:
    """Everything that goes into or comes out of a module, in order, with the module that computed it."""
    found: list[tuple[nn.Module, Tensor]] = []
    running: list[nn.Module] = []

    def enter(module: nn.Module, given: Any) -> None:
        caller = running[-1] if running else module
        # Cloned: a later layer may write into it.
        found.extend((caller, tensor.clone()) for tensor in tensors_in(given))
        running.append(module)

    def leave(module: nn.Module, _: Any, result: Any) -> None:
        found.extend((module, tensor.clone()) for tensor in tensors_in(result))
        running.pop()

    with ExitStack() as hooks, torch.no_grad():
        for module in model.modules():
            hooks.callback(module.register_forward_pre_hook(enter).remove)
            hooks.callback(module.register_forward_hook(leave).remove)
        model(image_BCHW.clone())
    return found
