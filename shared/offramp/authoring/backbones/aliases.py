"""Rewrites operations of a traced graph that write in place, or that depend on how a tensor lies in memory."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import fx

from offramp.authoring.networks.classifier import is_ours_or_torch
from offramp.errors import ConfigError

_ATEN = torch.ops.aten
_FRAME = re.compile(r'File "([^"]+)", line (\d+).*\n(.*)')
_VIEWS = {
    _ATEN.view.default: _ATEN.reshape.default,
    _ATEN._unsafe_view.default: _ATEN.reshape.default,  # noqa: SLF001 - the name of an operator
    _ATEN.view_as.default: _ATEN.reshape_as.default,
}
# These return their input, or a view of it, in some cases only; their schema does not say so.
_MAY_ALIAS = {
    "reshape", "flatten", "contiguous", "to", "type_as", "dropout", "feature_dropout", "alpha_dropout",
    "feature_alpha_dropout", "expand_as", "squeeze", "unflatten",
}  # fmt: skip


def without_writes(module: fx.GraphModule) -> None:
    """Replace operations that write in place by those that return a new tensor.

    Raises:
        ConfigError: one writes into a part of a tensor that is read later; the message names the line.
    """
    graph = module.graph
    at = {node: number for number, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        if not _writes(node):
            continue
        written = node.args[0]
        now = at[node]
        read_later = [
            user
            for other in _aliases(written)
            for user in other.users
            if other is not written and at.get(other, now) < now < at.get(user, -1)
        ]
        new_target = _pure(node)
        if new_target is None or read_later or _root(written).op == "get_attr":
            raise ConfigError(
                f"the backbone writes into a tensor in place{place_of(node)}, which cannot be cut; make a new tensor "
                "instead, as with torch.cat or nn.functional.pad"
            )
        later = [user for user in written.users if at.get(user, -1) > now]
        node.target = new_target
        for user in later:
            user.replace_input_with(written, node)


def any_layout(module: fx.GraphModule) -> None:
    """Make the graph independent of the memory layout of its tensors, such as channels last."""
    for node in list(module.graph.nodes):
        if node.target in _VIEWS:
            node.target = _VIEWS[node.target]
        elif node.target is _ATEN.as_strided.default:
            with module.graph.inserting_before(node):
                plain = module.graph.call_function(_ATEN.contiguous.default, (node.args[0],))
            plain.meta = dict(node.args[0].meta)
            node.args = (plain, *node.args[1:])


def place_of(node: fx.Node) -> str:
    """Where in the model's code a node comes from, as ` at file:line, `code``; empty if that is not known."""
    where = "at"
    while node.op != "output":
        frames = _FRAME.findall(str(node.meta.get("stack_trace") or ""))
        written = [(file, line, code) for file, line, code in frames if not is_ours_or_torch(file)]
        if written:
            file, line, code = written[-1]
            return f" {where} {file}:{line}, `{code.strip()}`"
        node, where = node.next, "before"  # some operators carry no trace of their own
    return ""


def _writes(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and bool(schema.is_mutable)


def _pure(node: fx.Node) -> Any:
    """The same operation without writing, such as relu for relu_; None if there is none."""
    target: Any = node.target
    name = target._schema.name.split("::")[1]  # noqa: SLF001 - torch offers no other way
    packet = getattr(_ATEN, name[:-1], None) if name.endswith("_") else None
    return getattr(packet, target._overloadname, None) if packet is not None else None  # noqa: SLF001 - as above


def _source(node: fx.Node) -> fx.Node | None:
    """The tensor whose memory a node may share."""
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None or not node.all_input_nodes:
        return None
    name = schema.name.split("::")[1]
    shares = any(result.alias_info is not None for result in schema.returns) or name in _MAY_ALIAS
    return node.all_input_nodes[0] if shares else None


def _aliases(node: fx.Node) -> set[fx.Node]:
    """Every node that may share memory with this one."""
    root = _root(node)
    found, waiting = {root}, [root]
    while waiting:
        for user in waiting.pop().users:
            if user not in found and _source(user) in found:
                found.add(user)
                waiting.append(user)
    return found


def _root(node: fx.Node) -> fx.Node:
    while (source := _source(node)) is not None:
        node = source
    return node
