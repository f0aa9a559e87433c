"""Runs a classifier as in training, to find what differs there, and to compare it with the blocks cut from it.

What is known to be put back (batch norm, dropout, stochastic depth) is set aside meanwhile. So whatever still differs
is something that the blocks would not do in training.
Shapes: B samples, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from offramp.authoring.backbones.in_training import ATTENTION, PATH, WHOLE_PATH, StochasticDepth, mark
from offramp.authoring.networks.classifier import first_line, line_of
from offramp.errors import ConfigError

_PROBES, _SAMPLES = 500, 16  # enough to see a path of 0.1 % left out
_DROPS = {
    getattr(owner, name)
    for owner, names in (
        (
            functional,
            ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"),
        ),
        (torch, ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")),
        (torch, ("dropout_", "feature_dropout_", "alpha_dropout_", "feature_alpha_dropout_")),
    )
    for name in names
}
# Switched off one by one too, for code that runs where the functions are not caught, such as a checkpoint.
_SWITCHED = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._NormBase, nn.RReLU, StochasticDepth)  # noqa: SLF001 - bases
_NORMS = {functional.batch_norm: 5, functional.instance_norm: 5}


@dataclass(frozen=True)
class Random:
    """What a classifier draws at random in training and leaves no trace of in inference.

    paths: kind and probability of each stochastic depth. attention: share of attention weights that each call of
    scaled dot-product attention drops, in the order of the calls.
    """

    paths: Mapping[nn.Module, tuple[str, float]]
    attention: tuple[float, ...]


class _SetAside(TorchFunctionMode):
    """Functions that differ in training do what they do in inference."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in _DROPS:
            return args[0] if args else kwargs["input"]
        if func in _NORMS and (args[1] if len(args) > 1 else kwargs.get("running_mean")) is not None:
            at, name = _NORMS[func], "training" if func is functional.batch_norm else "use_input_stats"
            kwargs |= {name: False} if len(args) <= at else {}
            args = (*args[:at], False, *args[at + 1 :]) if len(args) > at else args
        if func is functional.rrelu:
            args, kwargs = args[:3], {k: v for k, v in kwargs.items() if k in ("lower", "upper")}
        return func(*args, **kwargs)


@contextmanager
def known_set_aside(dropped: list[float] | None = None) -> Iterator[None]:
    """Let batch norm, dropout and attention do in training what they do in inference.

    Args:
        dropped: receives the share of attention weights that each call would have dropped.
    """
    attend = functional.scaled_dot_product_attention

    def attend_all(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any) -> Tensor:
        p = rest[1] if len(rest) > 1 else options.pop("dropout_p", 0.0)
        if dropped is not None:
            dropped.append(p)
        return attend(query, key, value, *((*rest[:1], 0.0, *rest[2:]) if len(rest) > 1 else rest), **options)

    with mock.patch.object(functional, "scaled_dot_product_attention", attend_all), _SetAside():
        yield


@contextmanager
def in_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Switch a model to training or inference; afterwards it, its buffers and torch's random state are as before."""
    was = {module: module.training for module in model.modules()}
    held = {name: buffer.detach().clone() for name, buffer in model.named_buffers() if training}
    with torch.random.fork_rng(devices=[]):
        try:
            _switch(model, training=training)
            yield
        finally:
            for module, mode in was.items():
                module.training = mode
            for name, buffer in model.named_buffers():
                if name in held:
                    buffer.data.copy_(held[name])


def _switch(model: nn.Module, *, training: bool) -> None:
    try:
        model.train(training)
    except NotImplementedError:  # a module made by torch.export; it has no other mode
        return


def failure_in_training(error: Exception) -> ConfigError:
    """The error about a classifier that cannot be run as in training."""
    return ConfigError(
        f"the backbone fails in training{line_of(error)}: {first_line(error)}; make model.train()(image) work, as its "
        "blocks are compared with it"
    )


def find_random(model: nn.Module, image_BCHW: Tensor) -> Random:
    """Find what a classifier draws at random in training and leaves no trace of, by running it.

    Raises:
        ConfigError: it fails in training.
    """
    seen: dict[nn.Module, int] = {}
    attention: list[float] = []

    def look(module: nn.Module, given: tuple[Any, ...], result: Any) -> None:
        if (
            len(given) == 1
            and isinstance(result, Tensor)
            and result.shape == getattr(given[0], "shape", None)
        ):
            seen[module] = result.ndim

    with in_mode(model, training=True), known_set_aside(attention), ExitStack() as hooks:
        for module in model.modules():
            if _may_be_path(module):
                hooks.callback(module.register_forward_hook(look).remove)
        try:
            with torch.no_grad():
                model(image_BCHW.clone())
        except Exception as error:
            raise failure_in_training(error) from error
        paths = {module: found for module, ndim in seen.items() if (found := _path(module, ndim))}
    return Random(paths, tuple(attention))


def _may_be_path(module: nn.Module) -> bool:
    is_leaf = next(module.children(), None) is None and next(module.parameters(), None) is None
    return is_leaf and not type(module).__module__.startswith("torch.nn.")


def _path(module: nn.Module, ndim: int) -> tuple[str, float] | None:
    """Kind and probability, if this module multiplies each sample, or all alike, by 0 or by 1 / (1 - p)."""
    torch.manual_seed(0)
    try:
        with torch.no_grad():
            factors = torch.stack(
                [
                    module(torch.ones(_SAMPLES, *[2] * (ndim - 1))).reshape(_SAMPLES, -1)
                    for _ in range(_PROBES)
                ]
            )
    except Exception:  # noqa: BLE001 - a module may raise anything
        return None  # not stochastic depth, which takes any shape
    values, scale = factors[..., 0], float(factors.max())
    is_by_sample = bool((factors == values[..., None]).all())
    is_drawn = bool((values == 0).any()) and bool(((values == 0) | (values == scale)).all())
    if scale <= 1 or not is_by_sample or not is_drawn:
        return None
    return WHOLE_PATH if bool((values == values[:, :1]).all()) else PATH, 1 - 1 / scale


@contextmanager
def marked(random: Random) -> Iterator[None]:
    """Mark everything random while a classifier is traced."""
    with _replaced_paths(random, lambda kind, p: partial(mark, kind=kind, p=p)), _marked_attention(random):
        yield


@contextmanager
def unmarked(random: Random) -> Iterator[None]:
    """Let stochastic depth pass everything on."""
    with _replaced_paths(random, lambda *_: lambda feature: feature):
        yield


@contextmanager
def _replaced_paths(random: Random, forward: Callable[[str, float], Any]) -> Iterator[None]:
    with ExitStack() as stack:
        for module, (kind, p) in random.paths.items():
            stack.enter_context(mock.patch.object(module, "forward", forward(kind, p)))
        yield


@contextmanager
def _marked_attention(random: Random) -> Iterator[None]:
    attend, shares = functional.scaled_dot_product_attention, iter(random.attention)

    def attend_marked(query: Tensor, *rest: Any, **options: Any) -> Tensor:
        p = next(shares, 0.0)
        return attend(mark(query, ATTENTION, p) if p else query, *rest, **options)

    with mock.patch.object(functional, "scaled_dot_product_attention", attend_marked):
        yield


def trial(
    model: nn.Module, image_BCHW: Tensor, random: Random, weights: Sequence[nn.Parameter] = ()
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """Logits and gradients as in training, but for what is known to be put back.

    Args:
        model: in training mode.
        image_BCHW: the images.
        random: what the model draws at random.
        weights: whose gradients to compute.
    """
    with known_set_aside(), unmarked(random):
        for module in model.modules():
            if isinstance(module, _SWITCHED):
                module.training = False
        logits_BK: Tensor = model(image_BCHW.clone())
        if not weights or not logits_BK.requires_grad:
            return logits_BK, (None,) * len(weights)
        # The squares, as the sum of logits has no gradient behind a softmax.
        gradients = torch.autograd.grad(logits_BK.square().sum(), weights, allow_unused=True)
    return logits_BK.detach(), gradients
