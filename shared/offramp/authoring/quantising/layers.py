"""Which layers of a block stay in float32: those that int8 makes slower here, and those that it harms."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from offramp.authoring.quantising.graphs import Quantised, Quantiser, Scale
from offramp.errors import BundleError

_FASTER = 0.97  # a layer goes back to float32 if that takes at most this much of the time
_ROUNDS = 20
_ROUND_S = 0.005
_BATCH = 64
_LEAST = 1e-12  # mean square of an output that is 0

_Outputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Chosen:
    """A block in int8, as far as that pays.

    graph: of the block. handed_on: what the levels of its feature mean; None if it is float32. layers: how many could
    be in int8, and `left`, how many stay in float32. float_us, us: microseconds for one sample with one thread, in
    float32 and as chosen. change: of the block's outputs, relative to their size.
    """

    graph: bytes
    handed_on: Scale | None
    layers: int
    left: int
    float_us: float
    us: float
    change: float


def choose_layers(
    graph: bytes,
    ranges: Sequence[NDArray[Any]],
    compared: NDArray[Any],
    taken: Scale | None,
    *,
    most_change: float,
    timed: bool = True,
) -> Chosen:
    """Quantise a block, but for the layers that are faster in float32, and the worst of those that change its outputs.

    Args:
        graph: of the block, which takes float32, pixels or a bottleneck's code.
        ranges: inputs that the ranges of its tensors come from.
        compared: other inputs (N, …), on which its outputs are compared with those in float32.
        taken: what the levels in both mean, if the block before hands on a feature in 8 bits.
        most_change: of any output, relative to its size, as the root of a mean square.
        timed: whether layers are timed on this machine; otherwise all are tried in int8.

    Raises:
        BundleError: an output is no number, in float32 already.
    """
    with TemporaryDirectory(prefix="offramp-quantising-") as folder:
        return _chosen(Quantiser(graph, ranges, taken, Path(folder)), compared, most_change, timed=timed)


def _chosen(quantiser: Quantiser, compared: NDArray[Any], most_change: float, *, timed: bool) -> Chosen:
    floating = quantiser.floating()
    expected = _run(floating, compared)
    if not all(np.isfinite(output).all() for output in expected.values()):
        raise BundleError(
            "an output of it is no number on these photos, in float32 already; train the network again"
        )

    def changed(made: Quantised) -> float:
        return _change(expected, _run(made.graph, compared), made.handed_on)

    sample = compared[:1]
    left = _fastest(quantiser, floating, sample) if timed else set()
    while len(left) < len(quantiser.layers):
        found = quantiser.quantised(left)
        change = changed(found)
        if change <= most_change:
            break
        others = [layer for layer in quantiser.layers if layer not in left]
        changes = {layer: changed(quantiser.quantised({*left, layer})) for layer in others}
        left |= {min(changes, key=lambda layer: changes[layer])}
    else:
        found, change = Quantised(floating, None), 0.0
    float_us, us = _times([floating, found.graph], sample)
    return Chosen(
        graph=found.graph,
        handed_on=found.handed_on,
        layers=len(quantiser.layers),
        left=len(left),
        float_us=float_us,
        us=us,
        change=change,
    )


def _fastest(quantiser: Quantiser, floating: bytes, sample: NDArray[Any]) -> set[str]:
    """The layers without which the block in int8 is fastest; all of them if float32 is.

    First the layers up to any one are tried, because between int8 and float32 everything is converted, then each alone.
    """
    best, fastest = set(quantiser.layers), floating
    starts = [set(quantiser.layers[:count]) for count in range(len(quantiser.layers))]
    singles = [{layer} for layer in quantiser.layers]
    for tried in starts:
        made = quantiser.quantised(tried).graph
        if _is_faster(made, fastest, sample):
            best, fastest = tried, made
    if len(best) < len(quantiser.layers):
        for single in singles:
            made = quantiser.quantised(best ^ single).graph
            if _is_faster(made, fastest, sample):
                best, fastest = best ^ single, made
    return best


def _is_faster(tried: bytes, than: bytes, sample: NDArray[Any]) -> bool:
    """Whether one graph is faster than the other, twice in a row: of many trials, noise alone lets some win once."""
    for _ in range(2):
        before, after = _times([than, tried], sample)
        if after > _FASTER * before:
            return False
    return True


def _times(graphs: Sequence[bytes], sample: NDArray[Any]) -> list[float]:
    """Microseconds of each graph for one sample on one thread, taking turns; of its least disturbed turn."""
    sessions = [_session(graph) for graph in graphs]
    found: list[list[float]] = [[] for _ in graphs]
    for turn in range(_ROUNDS + 1):
        for session, times in zip(sessions, found, strict=True):
            calls, spent, begun = 0, 0.0, time.perf_counter()
            while spent < _ROUND_S:
                session.run(None, {session.get_inputs()[0].name: sample})
                calls, spent = calls + 1, time.perf_counter() - begun
            if turn:
                times.append(spent / calls * 1e6)
    return [min(times) for times in found]


def _run(graph: bytes, inputs: NDArray[Any]) -> _Outputs:
    session = _session(graph)
    names = [output.name for output in session.get_outputs()]
    given = session.get_inputs()[0].name
    parts = [
        session.run(names, {given: inputs[start : start + _BATCH]}) for start in range(0, len(inputs), _BATCH)
    ]
    return {
        name: np.concatenate(values) for name, values in zip(names, zip(*parts, strict=True), strict=True)
    }


def _session(graph: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _change(expected: _Outputs, found: _Outputs, handed_on: Scale | None) -> float:
    """The largest relative change of an output; infinite if one is no number."""
    if handed_on:
        found = {**found, "feature": handed_on.values(found["feature"])}
    changes = []
    for name, before in expected.items():
        apart = found[name].astype(np.float64) - before
        size = float(np.mean(before.astype(np.float64) ** 2))
        changes.append(float(np.sqrt(np.mean(apart**2) / max(size, _LEAST))))
    return max(changes) if np.isfinite(changes).all() else np.inf
