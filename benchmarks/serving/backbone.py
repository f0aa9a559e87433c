"""The plain backbone of a bundle as one ONNX graph: its blocks joined, without their early exits."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import compose, utils

from offramp.bundle import Bundle


def backbone_of(bundle: Bundle) -> onnx.ModelProto:
    """Join the blocks. Input: block 1's pixels. Outputs: the last exit's `probabilities` and `confidence`."""
    whole: onnx.ModelProto | None = None
    for block in bundle.manifest.blocks:
        model = onnx.load_from_string(bundle.graphs[block.number])
        outputs = ["feature"] if block.feature else ["probabilities", "confidence"]
        # Keep only what these outputs need, without the early exits.
        part = utils.Extractor(model).extract_model([model.graph.input[0].name], outputs)
        if whole is None:
            whole = compose.add_prefix(part, "block1_")
            continue
        part = compose.add_prefix(part, f"block{block.number}_")
        joint = [(whole.graph.output[0].name, part.graph.input[0].name)]
        whole = compose.merge_models(whole, part, io_map=joint)
    assert whole is not None, "a bundle has blocks"
    _drop_single_pools(whole.graph)
    _name_outputs(whole)
    onnx.checker.check_model(whole)
    return whole


def write_backbone(bundle: Bundle, path: Path) -> None:
    """Write the backbone to a file."""
    path.write_bytes(backbone_of(bundle).SerializeToString())


def _drop_single_pools(graph: onnx.GraphProto) -> None:
    """Remove 1 x 1 pools, which only help blocks that are graphs of their own."""
    for node in [node for node in graph.node if node.op_type == "MaxPool"]:
        if all(
            attribute.ints[:] == [1, 1] for attribute in node.attribute if attribute.name == "kernel_shape"
        ):
            graph.node.remove(node)
            for other in graph.node:
                other.input[:] = [node.input[0] if name == node.output[0] else name for name in other.input]


def _name_outputs(model: onnx.ModelProto) -> None:
    plain = {output.name: output.name.split("_", 1)[1] for output in model.graph.output}
    for node in model.graph.node:
        node.output[:] = [plain.get(name, name) for name in node.output]
        node.input[:] = [plain.get(name, name) for name in node.input]
    for output in model.graph.output:
        output.name = plain[output.name]
