"""Checks that a network fits its preprocessing, labels and split point, before training and before export.

Shapes: B samples, C channels, H x W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from offramp.authoring.networks.agreement import alike, check_images_apart, different_images
from offramp.authoring.networks.early_exit import EarlyExitNetwork
from offramp.bundle.manifest import Preprocessing
from offramp.bundle.task import SINGLE_LABEL, Task
from offramp.errors import ConfigError


def check_answers(
    network: EarlyExitNetwork, preprocessing: Preprocessing, num_labels: int, task: Task = SINGLE_LABEL
) -> None:
    """Run the network on a few images and check what every exit returns; the network does not change.

    Raises:
        ConfigError: the network was cut for images of another shape, fails on one of this shape, answers differently
            for an image alone and among others, or has an exit that does not return one logit for each label, or the
            two numbers of a regression, or that returns what is not a number.
    """
    shape = (preprocessing.channels, preprocessing.height, preprocessing.width)
    if network.origin is not None and network.origin.image_shape != shape:
        raise ConfigError(
            f"the preprocessing makes images of shape {shape}, but attach_exits cut the network for "
            f"{network.origin.image_shape}; give both the same channels, height and width"
        )
    for number, logits_shape in enumerate(_logits_shapes(network, shape), start=1):
        _check_outputs(number, logits_shape, num_labels, task)
    was_training = network.training
    try:
        _check_numbers(network.eval(), shape)
        check_images_apart(network, shape, name="the network")
    finally:
        network.train(was_training)


def _check_numbers(network: EarlyExitNetwork, shape: tuple[int, int, int]) -> None:
    with torch.no_grad():
        logits = network(different_images(shape)[:1])
    for number, logits_BK in enumerate(logits, start=1):
        if bool(logits_BK.isnan().any()):
            raise ConfigError(
                f"exit {number} returns what is not a number, so its confidence would not be one either; its weights "
                "or those before it are not finite, so train it again with a lower learning rate"
            )


def _check_outputs(number: int, shape: tuple[int, ...], num_labels: int, task: Task) -> None:
    """Check the shape of what an exit returns for one image."""
    wanted = task.num_outputs(num_labels)
    if len(shape) != 2:
        raise ConfigError(
            f"exit {number} returns a tensor of shape {shape} for one image, expected logits of shape "
            f"(1, {wanted}); end its EEC with a layer that gives one number for each class"
        )
    if shape[1] == wanted:
        return
    if task.kind == "regression":
        raise ConfigError(
            f"exit {number} returns {shape[1]} numbers, but a regression needs 2: the value, and its standard "
            "deviation before a softplus; build the network for 2 classes, or attach it with --new-head"
        )
    raise ConfigError(
        f"exit {number} has {shape[1]} classes, but there are {num_labels} labels; build the "
        "network for as many classes as the data has"
    )


def check_split_point(network: EarlyExitNetwork, split_point: int) -> None:
    """Check that the next tier has a block to start with; a network of one block is never split.

    Raises:
        ConfigError: no block of that number can start the next tier.
    """
    last = len(network.blocks)
    if last > 1 and not 2 <= split_point <= last:
        raise ConfigError(
            f"split_point is {split_point}, but the network has blocks 1 to {last}; give the first block of the next "
            f"tier, 2 to {last}"
        )


def choose_layout(network: EarlyExitNetwork, preprocessing: Preprocessing) -> EarlyExitNetwork:
    """Lay out the weights with the channels last, which is faster on a CPU, unless the network then answers otherwise.

    Such a network reads its features in the order of memory, for example with `x.view(-1, n)`. From then on it also
    gets its images with the channels first in memory, whoever runs it.
    """
    image_BCHW = different_images((preprocessing.channels, preprocessing.height, preprocessing.width))
    was_training = network.training
    network.eval()
    with torch.no_grad():
        expected = network(image_BCHW)
        _in_layout(network, torch.channels_last)
        try:
            keeps = alike(expected, network(image_BCHW.contiguous(memory_format=torch.channels_last)))
        except RuntimeError:  # as `view` says it
            keeps = False
    if not keeps:
        _in_layout(network, torch.contiguous_format)
        network.blocks[0].register_forward_pre_hook(_channels_first)
    return network.train(was_training)


def _channels_first(_: nn.Module, images: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    # Not `contiguous`, which keeps the layout of an image with one channel.
    return tuple(image_BCHW.clone(memory_format=torch.contiguous_format) for image_BCHW in images)


def _in_layout(network: EarlyExitNetwork, layout: torch.memory_format) -> EarlyExitNetwork:
    changed: EarlyExitNetwork = network.to(memory_format=layout)  # type: ignore[call-overload] # the stubs lack it
    return changed


def _logits_shapes(network: EarlyExitNetwork, shape: tuple[int, int, int]) -> list[tuple[int, ...]]:
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            return [tuple(logits.shape) for logits in network(torch.zeros(1, *shape))]
    except Exception as error:  # a user's network may raise anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"the network fails on an image of shape {shape}, which the preprocessing produces: {reason}; give the "
            "preprocessing the channels, height and width that the network was made for"
        ) from error
    finally:
        network.train(was_training)
