"""Puts back into a graph exported for inference what differs in training, such as batch norm and dropout."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from offramp.authoring.backbones.in_training import (
    ATTENTION,
    WHOLE_PATH,
    Attention,
    BatchNorm,
    InstanceNorm,
    StochasticDepth,
)
from offramp.errors import ConfigError

_ATEN = torch.ops.aten
_HIGHER = torch.ops.higher_order
_DECOMPOSED = _ATEN._native_batch_norm_legit_no_training.default  # noqa: SLF001 - the name of an operator


def put_back(module: fx.GraphModule) -> None:
    """Replace what differs in training by modules that obey `train()` and `eval()`.

    Raises:
        ConfigError: some of it is inside a branch of the graph, where it cannot be replaced.
    """
    inline_without_gradients(module)
    for node in list(module.graph.nodes):
        make = _MAKERS.get(node.target)
        if make is not None:
            part = make(module, node)
            if part is not None:
                _replace(module, node, part)
        elif node.target is _DECOMPOSED:
            _replace_decomposed(module, node)
        elif node.target is torch.ops.offramp.in_training.default:
            _replace_mark(module, node)
        elif isinstance(inner := _inner(module, node), fx.GraphModule):
            _check_branch(inner)


def inline_without_gradients(module: fx.GraphModule) -> None:
    """Put the nodes of every region under `torch.no_grad` into the graph itself, its results detached."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.target is not _HIGHER.wrap_with_set_grad_enabled:
            continue
        enabled, region_node, *arguments = node.args
        region = getattr(module, region_node.target)
        inline_without_gradients(region)
        copies: dict[fx.Node, Any] = {}
        given = iter(arguments)
        results: tuple[Any, ...] = ()
        with graph.inserting_before(node):
            for inner in region.graph.nodes:
                if inner.op == "placeholder":
                    copies[inner] = next(given)
                elif inner.op == "output":
                    results = tuple(copies[result] for result in inner.args[0])
                else:
                    copies[inner] = graph.node_copy(inner, copies.__getitem__)
            if not enabled:
                results = tuple(_detached(graph, result) for result in results)
        for user in list(node.users):
            user.replace_all_uses_with(results[user.args[1]])
            graph.erase_node(user)
        graph.erase_node(node)
        if not region_node.users:
            graph.erase_node(region_node)


def _detached(graph: fx.Graph, result: fx.Node) -> fx.Node:
    if not isinstance(result.meta.get("val"), Tensor):
        return result
    detached = graph.call_function(_ATEN.detach.default, (result,))
    detached.meta = dict(result.meta)
    return detached


def _batch_norm(module: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    given: tuple[Any, ...] = node.args
    weight, bias, mean, var, uses_batch, momentum, eps = given[1:8]
    if uses_batch or mean is None:
        return None
    cls = InstanceNorm if node.target is _ATEN.instance_norm.default else BatchNorm
    return cls(_parts(module, weight, bias, mean, var), momentum, eps)


def _parts(module: fx.GraphModule, *nodes: Any) -> dict[str, Tensor | None]:
    names = ("weight", "bias", "running_mean", "running_var")
    parts: dict[str, Tensor | None] = {
        name: None if node is None else operator.attrgetter(node.target)(module)
        for name, node in zip(names, nodes, strict=True)
    }
    owner, _, _ = str(nodes[2].target).rpartition(".")
    parts["num_batches_tracked"] = dict(module.named_buffers()).get(f"{owner}.num_batches_tracked")
    return parts


def _feature_dropout(module: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    sides = node.meta["val"].ndim
    cls = {3: nn.Dropout1d, 4: nn.Dropout2d, 5: nn.Dropout3d}.get(sides, nn.Dropout)
    return _dropout(cls)(module, node)


def _dropout(cls: type[nn.Module]) -> Callable[[fx.GraphModule, fx.Node], nn.Module | None]:
    def make(_: fx.GraphModule, node: fx.Node) -> nn.Module | None:
        p, always = node.args[1:]
        return None if always else cls(p)

    return make


def _rrelu(_: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    given: tuple[Any, ...] = node.args[1:]
    lower, upper, always = (*given, *(1 / 8, 1 / 3, False)[len(given) :])[:3]
    return None if always else nn.RReLU(lower, upper)


_MAKERS: Mapping[Any, Callable[[fx.GraphModule, fx.Node], nn.Module | None]] = {
    _ATEN.batch_norm.default: _batch_norm,
    _ATEN.instance_norm.default: _batch_norm,
    _ATEN.dropout.default: _dropout(nn.Dropout),
    _ATEN.feature_dropout.default: _feature_dropout,
    _ATEN.alpha_dropout.default: _dropout(nn.AlphaDropout),
    _ATEN.feature_alpha_dropout.default: _dropout(nn.FeatureAlphaDropout),
    _ATEN.rrelu.default: _rrelu,
}


def _replace_decomposed(module: fx.GraphModule, node: fx.Node) -> None:
    # The form that batch norm has after `ExportedProgram.run_decompositions`: three results, only the first is used.
    given: tuple[Any, ...] = node.args
    weight, bias, mean, var, momentum, eps = given[1:]
    part = BatchNorm(_parts(module, weight, bias, mean, var), momentum, eps)
    first = next((user for user in node.users if user.args[1] == 0), None)
    if first is not None:
        first.args = (node.args[0],)
        _replace(module, first, part)
    module.graph.eliminate_dead_code()


def _replace_mark(module: fx.GraphModule, node: fx.Node) -> None:
    given: tuple[Any, ...] = node.args
    feature, kind, p = given
    if kind != ATTENTION:
        _replace(module, node, StochasticDepth(p, of_batch=kind == WHOLE_PATH))
        return
    attending = [user for user in node.users if user.target is _ATEN.scaled_dot_product_attention.default]
    node.replace_all_uses_with(feature)
    module.graph.erase_node(node)
    for user in attending:
        _replace(module, user, Attention(p))


def _replace(module: fx.GraphModule, node: fx.Node, part: nn.Module) -> None:
    module.add_submodule(node.name, part)
    takes_all = isinstance(part, Attention)
    with module.graph.inserting_before(node):
        new = module.graph.call_module(
            node.name, node.args if takes_all else (node.args[0],), dict(node.kwargs) if takes_all else {}
        )
    new.meta = node.meta
    node.replace_all_uses_with(new)
    module.graph.erase_node(node)


def _inner(module: fx.GraphModule, node: fx.Node) -> Any:
    return getattr(module, str(node.target), None) if node.op == "get_attr" else None


def _check_branch(inner: fx.GraphModule) -> None:
    for node in inner.graph.nodes:
        if node.target in _MAKERS:
            raise ConfigError(
                f"the backbone has {node.target} inside torch.cond or autocast, where it cannot be trained; move it "
                "outside"
            )
