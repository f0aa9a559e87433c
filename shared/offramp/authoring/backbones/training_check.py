"""Checks that blocks cut from a classifier would train as the classifier itself.

Shapes: B samples, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from offramp.authoring.backbones.in_training import Attention
from offramp.authoring.backbones.rehearsal import Random, failure_in_training, in_mode, trial
from offramp.authoring.networks.agreement import alike, called, different_images
from offramp.authoring.networks.classifier import LogitsOnly
from offramp.authoring.networks.early_exit import EarlyExitNetwork
from offramp.errors import ConfigError

_OBEDIENT = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)  # noqa: SLF001 - their common base
_GRADIENT = 1e-3  # largest difference of a gradient, relative to its largest value


def check_trains_alike(
    model: nn.Module, network: EarlyExitNetwork, image_shape: tuple[int, int, int], random: Random
) -> None:
    """Compare logits and gradients of a classifier and of its blocks in training.

    Args:
        model: the classifier that the blocks were cut from; they share its weights.
        network: the blocks.
        image_shape: (C, H, W).
        random: what the classifier draws at random in training; it is set aside, like batch norm and dropout.

    Raises:
        ConfigError: they differ; the message names the layer or the weight.
    """
    _check_attention(network, random)
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    image_BCHW = different_images(image_shape)
    with in_mode(model, training=True), torch.enable_grad():
        _check_norms(model)
        before = _state(model)
        expected, wanted = _run(LogitsOnly(model), image_BCHW, random, weights)
        changed = [name for name, value in _state(model).items() if not torch.equal(value, before[name])]
    if changed:
        raise ConfigError(
            f"the backbone changes its buffer {changed[0]} in training, which its blocks would not; remove what does "
            "it, as with torch.nn.utils.parametrize.remove_parametrizations"
        )
    with in_mode(network, training=True), torch.enable_grad():
        found, given = _run(_LastExit(network), image_BCHW, random, weights)
    if not alike([expected], [found]):
        raise ConfigError(
            "the backbone computes something else in training than in inference: "
            f"{_culprit(model, image_BCHW, random)}; its blocks would not do so; switch it off, or build it from "
            "dropout, batch norm or stochastic depth"
        )
    for name in weights:
        _check_gradient(name, wanted[name], given[name])


class _LastExit(nn.Module):
    def __init__(self, network: EarlyExitNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, image_BCHW: Tensor) -> Tensor:
        last = self.network.num_exits
        return self.network.logits_at(image_BCHW, [last])[last]


def _run(
    model: nn.Module, image_BCHW: Tensor, random: Random, weights: Mapping[str, nn.Parameter]
) -> tuple[Tensor, Mapping[str, Tensor | None]]:
    """Logits, and gradients by name."""
    try:
        logits_BK, gradients = trial(model, image_BCHW, random, list(weights.values()))
    except ConfigError:
        raise
    except Exception as error:
        raise failure_in_training(error) from error
    return logits_BK, dict(zip(weights, gradients, strict=True))


def _check_norms(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if not isinstance(module, _OBEDIENT):
            continue
        if not module.training:
            raise ConfigError(
                f"the backbone keeps {called(name, module)} in inference mode in training, which its blocks would not; "
                "let model.train() switch all layers, and freeze weights with requires_grad_(False)"
            )
        if getattr(module, "momentum", None) == 0:
            raise ConfigError(
                f"the layer {name} has a momentum of 0, which cannot be told from None in an exported graph; give None "
                "for the average over all batches, or a momentum above 0"
            )


def _check_attention(network: EarlyExitNetwork, random: Random) -> None:
    wanted = sum(1 for p in random.attention if p)
    found = sum(isinstance(module, Attention) for module in network.modules())
    if wanted != found:
        raise ConfigError(
            f"the backbone drops attention weights in {wanted} places in training, of which only {found} are found "
            "again in its blocks; set the dropout of its attention to 0"
        )


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: buffer.detach().clone()
        for name, buffer in model.named_buffers()
        if not name.endswith("num_batches_tracked")
    }


def _check_gradient(name: str, wanted: Tensor | None, given: Tensor | None) -> None:
    one, two = (torch.zeros(1) if gradient is None else gradient for gradient in (wanted, given))
    if (wanted is None and bool(two.any())) or (given is None and bool(one.any())):
        raise ConfigError(
            f"the weight {name} gets a gradient in {'its blocks' if wanted is None else 'the backbone'} only; write "
            "what stops it as torch.no_grad or tensor.detach(), or freeze the weight with requires_grad_(False)"
        )
    largest = max(float(one.abs().max()), float(two.abs().max()))
    if one.shape == two.shape and float((one - two).abs().max()) > _GRADIENT * largest + 1e-6:
        raise ConfigError(
            f"the gradient of the weight {name} differs between the backbone and its blocks, which know no custom "
            "backward pass; write the layers after it without torch.autograd.Function"
        )


def _culprit(model: nn.Module, image_BCHW: Tensor, random: Random) -> str:
    """The layer that makes a difference when it alone is switched to training."""
    wrapped = LogitsOnly(model)
    with in_mode(model, training=True), torch.no_grad():
        modules = list(model.named_modules())
        for _, module in modules:
            module.training = False
        expected = _run(wrapped, image_BCHW, random, {})[0]
        for name, module in modules:
            module.training = True
            if not alike([expected], [_run(wrapped, image_BCHW, random, {})[0]]):
                return called(name, module)
            module.training = False
    return "its own train()"
