"""What a block's graph may contain, found by reading its bytes before any runtime does.

A graph may not read anything but itself, because only its own bytes were hashed, and it may not decide while it runs
how long that takes. `onnx`, which could tell, is not installed where bundles are served; so this reads the few fields
that matter, as the encoding of Protocol Buffers defines it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

# https://github.com/onnx/onnx/blob/main/onnx/onnx.proto: numbers of fields, by message.
_GRAPH, _FUNCTIONS, _TRAINING = 7, 25, 20  # ModelProto
_NODES, _INITIALIZERS, _SPARSE = 1, 5, 15  # GraphProto
_ATTRIBUTES, _OPERATOR, _DOMAIN = 5, 4, 7  # NodeProto
_EXTERNAL, _LOCATION = 13, 14  # TensorProto
_MAX_NODES = 100_000
# Defined by ONNX, and what ONNX Runtime adds to it.
_DOMAINS = {b"", b"ai.onnx", b"com.microsoft"}
_READS_FILES = {b"EPContext"}

_Fields = Iterator[tuple[int, int | memoryview]]


class GraphError(ValueError):
    """A graph is not one that a bundle may have; the text says why."""


def check_graph(data: bytes) -> None:
    """Check that a graph is all in these bytes, and that its operators are known and run once each.

    Raises:
        GraphError: it is no ONNX model, or has external data, a subgraph, such as that of a loop, a function of its
            own, or an operator of another domain.
    """
    found = set()
    for field, value in _fields(memoryview(data)):
        found.add(field)
        if field in (_FUNCTIONS, _TRAINING):
            raise GraphError(
                "it has functions of its own, or training information; export it with them inlined"
            )
        if field == _GRAPH:
            _check_graph(_message(value))
    if _GRAPH not in found:
        raise GraphError("it is no ONNX model")


def _check_graph(graph: memoryview) -> None:
    nodes = 0
    for field, value in _fields(graph):
        if field == _NODES:
            nodes += 1
            _check_node(_message(value))
        elif field in _WITH_TENSORS:
            _WITH_TENSORS[field](_message(value))
    if nodes > _MAX_NODES:
        raise GraphError(f"it has {nodes} nodes, expected at most {_MAX_NODES}")


def _check_node(node: memoryview) -> None:
    for field, value in _fields(node):
        if field == _DOMAIN and (domain := bytes(_message(value))) not in _DOMAINS:
            raise GraphError(f"it has an operator of the domain {domain.decode('utf-8', 'backslashreplace')}")
        if field == _OPERATOR and bytes(_message(value)) in _READS_FILES:
            raise GraphError("it has an operator that reads another file")
        if field == _ATTRIBUTES:
            for part, held in _fields(_message(value)):
                if part in _SUBGRAPHS:
                    raise GraphError(
                        "it has an operator, such as Loop or If, that decides what runs, and how often"
                    )
                if part in _HELD_TENSORS:
                    _HELD_TENSORS[part](_message(held))


def _check_tensor(tensor: memoryview) -> None:
    for field, value in _fields(tensor):
        if field == _EXTERNAL or (field == _LOCATION and value != 0):
            raise GraphError("it has data in another file, which the manifest does not list")


def _check_sparse(sparse: memoryview) -> None:
    for field, value in _fields(sparse):
        if field in (1, 2):  # values and indices
            _check_tensor(_message(value))


_Check = Callable[[memoryview], None]
_WITH_TENSORS: Mapping[int, _Check] = {_INITIALIZERS: _check_tensor, _SPARSE: _check_sparse}
_SUBGRAPHS = {6, 11}  # AttributeProto: g and graphs
_HELD_TENSORS: Mapping[int, _Check] = {
    5: _check_tensor,  # t
    10: _check_tensor,  # tensors
    22: _check_sparse,  # sparse_tensor
    23: _check_sparse,  # sparse_tensors
}


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise GraphError("it is damaged: a number where a message should be")
    return value


def _fields(message: memoryview) -> _Fields:
    """Number and value of each field: a number, or the bytes of a message, a text or a list."""
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        match key & 7:
            case 0:
                value, at = _varint(message, at)
                yield key >> 3, value
                continue
            case 1:
                length = 8
            case 2:
                length, at = _varint(message, at)
            case 5:
                length = 4
            case _:
                raise GraphError("it is no ONNX model, or damaged")
        if at + length > end:
            raise GraphError("it is damaged: it ends within a field")
        yield key >> 3, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message) and shift < 70:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise GraphError("it is no ONNX model, or damaged")
