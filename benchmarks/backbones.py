"""Cut architectures that were not written for Offramp, and compare each with the original.

    python -m benchmarks.backbones

The models come from the `transformers` package, with small settings and random weights. The point is that the blocks
together give the same output as the whole model.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table
from torch import nn

from offramp.authoring.backbones.attach import attach_exits
from offramp.cli.progress import progress
from offramp.command import Command, run_command

_SHAPE = (3, 64, 64)
_IMAGE: dict[str, Any] = {"image_size": 64, "num_labels": 10}
_TINY_VIT: dict[str, Any] = {
    **_IMAGE,
    "patch_size": 8,
    "hidden_size": 64,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}


def of_architecture(architecture: str, **settings: Any) -> Callable[[], nn.Module]:
    """A function that builds one of the package's image classifiers, with random weights."""

    def build() -> nn.Module:
        config = getattr(transformers, f"{architecture}Config")(**settings)
        model: nn.Module = getattr(transformers, f"{architecture}ForImageClassification")(config)
        return model

    return build


ARCHITECTURES: Mapping[str, Callable[[], nn.Module]] = {
    "ResNet": of_architecture(
        "ResNet", embedding_size=16, hidden_sizes=[16, 32, 64, 128], depths=[2, 2, 2, 2], num_labels=10
    ),
    "ConvNeXt": of_architecture("ConvNext", hidden_sizes=[16, 32, 64, 128], depths=[2, 2, 4, 2], **_IMAGE),
    "MobileNetV1": of_architecture("MobileNetV1", depth_multiplier=0.25, **_IMAGE),
    "MobileNetV2": of_architecture("MobileNetV2", depth_multiplier=0.35, **_IMAGE),
    "EfficientNet": of_architecture(
        "EfficientNet", width_coefficient=0.5, depth_coefficient=0.5, hidden_dim=640, **_IMAGE
    ),
    "RegNet": of_architecture(
        "RegNet",
        embedding_size=16,
        hidden_sizes=[16, 32, 64, 128],
        depths=[1, 2, 3, 1],
        groups_width=8,
        num_labels=10,
    ),
    "ViT": of_architecture("ViT", **_TINY_VIT),
    "DeiT": of_architecture("DeiT", **_TINY_VIT),
    "Swin": of_architecture(
        "Swin", patch_size=2, embed_dim=24, depths=[2, 2, 2], num_heads=[2, 4, 8], window_size=4, **_IMAGE
    ),
}


class Backbones(Command):
    """Cut every architecture and show where.

    Example: python -m benchmarks.backbones
    """

    def execute(self) -> None:
        """Cut each architecture in turn."""
        table = Table(title=f"cuts by attach_exits, for images of shape {_SHAPE}")
        for column in ("architecture", "possible cuts", "exits at, feature shape", "MACs", "max difference"):
            table.add_column(column)
        with progress("architectures", len(ARCHITECTURES)) as advance:
            for name, build in ARCHITECTURES.items():
                torch.manual_seed(0)
                origin = attach_exits(build().eval(), image_shape=_SHAPE).origin
                assert origin is not None
                chosen = ", ".join(f"{cut.share:.0%} {cut.feature_shape}" for cut in origin.chosen)
                macs = f"{origin.chosen[-1].macs / origin.chosen[-1].share / 1e6:.1f} M"
                table.add_row(name, str(len(origin.cuts)), chosen, macs, f"{origin.difference:.1e}")
                advance(1)
        Console().print(table)


if __name__ == "__main__":
    run_command(Backbones, sys.argv[1:], program="python -m benchmarks.backbones")
