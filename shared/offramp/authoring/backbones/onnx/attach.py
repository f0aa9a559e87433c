"""Turns a classifier in an ONNX file into an early-exit network: the file itself is cut, so no torch model is needed.

Shapes: B samples, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from offramp.authoring.backbones.attach import TOLERANCE, attach_to, check_shares
from offramp.authoring.backbones.onnx.file import OnnxFile, read_classifier
from offramp.authoring.backbones.onnx.graph import OnnxGraph
from offramp.authoring.networks.early_exit import EarlyExitNetwork
from offramp.errors import ConfigError

if TYPE_CHECKING:
    import onnx


def attach_exits_to_onnx(
    model: onnx.ModelProto | str | Path,
    *,
    exits: Sequence[float] = (0.25, 0.5),
    eec_shares: Sequence[float] | None = None,
    image_shape: tuple[int, int, int] | None = None,
    num_classes: int | None = None,
) -> EarlyExitNetwork:
    """Cut a classifier in an ONNX file into blocks and attach EECs, which you then train.

    The blocks are parts of the file's own graph. They run on ONNX Runtime and stay as they are: only exits, and a new
    last layer, can be trained. The same file and arguments always give the same network.

    Args:
        model: path of the file, or the model itself. It takes one batch of normalised images in float32, (B, C, H, W)
            or (B, H, W, C); a file for a single image is changed to take any number. Its answer is the first output of
            two dimensions: logits, or their softmax, which is left out.
        exits: where to put the early exits, as for `attach_exits`.
        eec_shares: the most that each EEC may cost, as for `attach_exits`. Nothing is copied: the file's layers do not
            learn.
        image_shape: (C, H, W); needed only if the file leaves the size open.
        num_classes: K of a new, untrained last layer in place of the file's own.

    Returns:
        A network whose last exit gives the file's logits, unless it is new. Its EECs are untrained.

    Raises:
        ConfigError: the file cannot be read, holds no such classifier, or cannot be cut; the message says why.
    """
    check_shares(exits, eec_shares)
    file = read_classifier(model, image_shape)
    graph = OnnxGraph(file, num_classes)
    if not any(graph.macs.values()):
        raise ConfigError(
            "the file's graph has no convolution or linear layer; give a trained image classifier"
        )
    before_head = graph.before_head
    if num_classes is not None and before_head is None:
        raise ConfigError(
            "the file does not end in a linear layer, so num_classes cannot replace it; leave num_classes out"
        )
    network = attach_to(
        graph,
        file.image_shape,
        exits,
        eec_shares,
        graph.num_classes,
        difference=lambda network: _difference(file, network),
    )
    if num_classes is not None:
        assert network.origin is not None
        last = len(network.blocks)
        network.blocks[-1] = graph.block(network.origin.chosen[-1].node, str(before_head))
        network.eecs[str(last)] = nn.Linear(graph.shapes[str(before_head)][1], num_classes)
    return network


def _difference(file: OnnxFile, network: EarlyExitNetwork) -> float:
    """Largest difference from the file's answers, and from the network's own for each image alone."""
    images = np.random.default_rng(0).standard_normal((3, *file.image_shape)).astype(np.float32)
    last, expected = network.num_exits, file.answers(images)
    with torch.no_grad():
        together = network.logits_at(torch.from_numpy(images), [last])[last].numpy()
        alone = [
            network.logits_at(torch.from_numpy(image[np.newaxis]), [last])[last].numpy() for image in images
        ]
    if together.shape != expected.shape:
        raise ConfigError(
            f"the file returns {expected.shape} for {len(images)} images one by one, but {together.shape} for all of "
            "them; export it for any number of images (dynamic_axes or dynamic_shapes)"
        )
    # float32 has about seven digits, so large logits can't agree to within 1e-5.
    scale = max(1.0, float(np.abs(expected).max()))
    apart = float(np.abs(together - np.concatenate(alone)).max()) / scale
    if not apart <= TOLERANCE:
        raise ConfigError(
            f"an image in a batch of {len(images)} and the same image alone get answers that differ by {apart:.2e}, "
            f"more than {TOLERANCE:.0e}; the answer for an image must not depend on the others: export the model for "
            "inference, and for any number of images (dynamic_axes or dynamic_shapes)"
        )
    difference = max(
        float(np.abs(found - expected).max()) / scale for found in (together, np.concatenate(alone))
    )
    if not difference <= TOLERANCE:
        raise ConfigError(
            f"the blocks together differ from the file by {difference:.2e}, more than {TOLERANCE:.0e}; check whether "
            "its graph draws random numbers"
        )
    return difference
