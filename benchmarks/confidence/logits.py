"""The logits of every exit, which a bundle's graphs compute but don't return. Shapes: N samples, E exits, K classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper

from offramp.authoring.data.photos import Pixels, batches
from offramp.bundle import Bundle

_BATCH = 32


def logits_of(bundle: Bundle, pixels: Pixels, advance: Callable[[int], None]) -> NDArray[np.float32]:
    """Logits (N, E, K) as the confidence measures see them, divided by the exit's temperature."""
    sessions = [_session(bundle.graphs[block.number]) for block in bundle.manifest.blocks]
    found: list[list[NDArray[np.float32]]] = [[] for _ in sessions]
    for photos in batches(pixels):
        for start in range(0, len(photos), _BATCH):
            batch: Any = photos[start : start + _BATCH]
            advance(len(batch))
            for number, (session, names) in enumerate(sessions):
                returned = session.run(None, {session.get_inputs()[0].name: batch})
                values = dict(zip(names, returned, strict=True))
                batch = values.get("feature")
                if "logits" in values:
                    found[number].append(values["logits"])
    return np.stack([np.concatenate(parts) for parts in found if parts], axis=1)


def _session(graph: bytes) -> tuple[Any, list[str]]:
    model = onnx.load_from_string(graph)
    softmax = [node for node in model.graph.node if node.op_type == "LogSoftmax"]
    if softmax:
        model.graph.node.append(helper.make_node("Identity", [softmax[0].input[0]], ["logits"]))
        value = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["samples", "classes"])
        model.graph.output.append(value)
    return onnxruntime.InferenceSession(model.SerializeToString()), [
        output.name for output in model.graph.output
    ]
