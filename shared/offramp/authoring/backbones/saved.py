"""A backbone on disk, as a program of torch.export: it is cut and trained without the code that it was built by."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.export import ExportedProgram

from offramp.authoring.backbones import in_training
from offramp.authoring.backbones.attach import traced
from offramp.authoring.networks.classifier import first_line
from offramp.errors import ConfigError

_SUFFIX = ".pt2"


def save_backbone(model: nn.Module | ExportedProgram, path: Path, image_shape: tuple[int, int, int]) -> None:
    """Write a classifier as a `.pt2` file, with all that differs in training.

    Args:
        model: anything that `attach_exits` accepts.
        path: ends in `.pt2`.
        image_shape: (C, H, W).

    Raises:
        ConfigError: the model cannot be traced; the message says where and why.
    """
    _check_suffix(path)
    torch.export.save(traced(model, image_shape).program, path)


def load_backbone(path: Path) -> ExportedProgram:
    """Read a `.pt2` file, for `attach_exits`; it may come from `save_backbone` or from `torch.export.save`.

    Raises:
        ConfigError: there is no such file, or it holds no program.
    """
    _check_suffix(path)
    assert in_training.mark is not None  # a file of ours names this operator
    try:
        return torch.export.load(path)
    except Exception as error:
        raise ConfigError(
            f"{path} holds no program of torch.export: {first_line(error)}; write one with save_backbone or "
            "torch.export.save"
        ) from error


def _check_suffix(path: Path) -> None:
    if path.suffix != _SUFFIX:
        raise ConfigError(f"{path} does not end in {_SUFFIX}, as a program of torch.export does; rename it")
