"""The graph of a classifier in an ONNX file: what it costs, where it can be cut, and the parts between the cuts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from offramp.authoring.backbones.onnx.cost import Shape, macs_of, multiplies
from offramp.authoring.backbones.onnx.file import OnnxFile
from offramp.authoring.backbones.onnx.part import OnnxPart
from offramp.authoring.backbones.onnx.run import dependence, keep_needed, values_of
from offramp.authoring.backbones.onnx.sizes import COUNT, count_of
from offramp.authoring.networks.origin import Cut

_BATCH = 2


@dataclass(frozen=True, eq=False)
class OnnxGraph:
    """A classifier from an ONNX file that can be cut; its nodes go by the names of the tensors they make.

    classes: that the exits are to tell apart, if not those of the file.
    """

    file: OnnxFile
    classes: int | None = None
    macs: Mapping[str, int] = field(init=False)
    shapes: Mapping[str, Shape] = field(init=False)

    def __post_init__(self) -> None:
        counted = [node for node in self._nodes if multiplies(node) and node.output[0] in self._of_images]
        wanted = {name for node in counted for name in (*node.input, node.output[0])} & self._of_images
        wanted |= {*self._alone, self.logits} - {self.image}
        shapes = {self.image: (_BATCH, *self.file.image_shape), **self._weights}
        shapes |= self._shapes_for(_BATCH, wanted)
        object.__setattr__(self, "shapes", shapes)
        macs = {node.output[0]: macs_of(node, shapes) // _BATCH for node in counted}
        object.__setattr__(self, "macs", macs)

    @property
    def image(self) -> str:
        """The tensor of the images."""
        return str(self.file.model.graph.input[0].name)

    @property
    def logits(self) -> str:
        """The tensor of the logits."""
        return str(self.file.model.graph.output[0].name)

    @property
    def num_classes(self) -> int:
        """K."""
        return self.classes or self.shapes[self.logits][1]

    @property
    def before_head(self) -> str | None:
        """The tensor that the file's last layer turns into logits, if that is a linear layer."""
        made_by = {name: node for node in self._nodes for name in node.output}
        node = made_by[self.logits]
        if node.op_type == "Add":
            node = next((made_by[given] for given in node.input if given in self._of_images), node)
        if node.op_type not in ("Gemm", "MatMul") or node.input[0] not in self._of_images:
            return None
        taken = str(node.input[0])
        return taken if len(self.shapes[taken]) == len(self.shapes[self.logits]) else None

    @cached_property
    def _nodes(self) -> list[Any]:
        return list(self.file.model.graph.node)

    @cached_property
    def _of_images(self) -> frozenset[str]:
        return dependence(self.file.model).images

    @cached_property
    def _weights(self) -> dict[str, Shape]:
        return {tensor.name: tuple(tensor.dims) for tensor in self.file.model.graph.initializer}

    @cached_property
    def _live(self) -> list[set[str]]:
        """The tensors of images that are still needed after each node."""
        last_use = {self.logits: len(self._nodes)}
        for at, node in enumerate(self._nodes):
            last_use.update((name, max(at, last_use.get(name, 0))) for name in node.input)
        live, found = {self.image}, []
        for at, node in enumerate(self._nodes):
            made = self._of_images.intersection(node.output)
            live = {name for name in live | made if last_use.get(name, -1) > at}
            found.append(live)
        return found

    @cached_property
    def _alone(self) -> dict[str, int]:
        """The tensors that at some node are the only one still needed, with the number of the first such node."""
        alone: dict[str, int] = {}
        for at, live in enumerate(self._live):
            if len(live) == 1:
                (only,) = live
                alone.setdefault(only, at)
        return alone

    def _shapes_for(self, batch: int, names: set[str]) -> dict[str, Shape]:
        images = np.zeros((batch, *self.file.image_shape), np.float32)
        return {
            name: value.shape if value.dtype == np.float32 else ()
            for name, value in values_of(self.file.model, sorted(names), images).items()
        }

    def cuts(self) -> list[Cut]:
        """All places where a single tensor carries everything, from the image to the logits."""
        ends = {self.image, self.logits} | ({self.before_head} if self.classes else set())
        alone = {name: at for name, at in self._alone.items() if name not in ends}
        larger = self._shapes_for(_BATCH + 1, set(alone))
        spent = np.cumsum([self.macs.get(node.output[0], 0) for node in self._nodes]).tolist()
        total = sum(self.macs.values())
        return [
            Cut(name, spent[at] / total, spent[at], self.shapes[name][1:])
            for name, at in alone.items()
            if 0 < spent[at] < total
            and len(self.shapes[name]) > 1
            and (_BATCH, *larger[name][1:]) == self.shapes[name]
            and larger[name][0] == _BATCH + 1
        ]

    def crossing(self) -> list[str]:
        """Names of the tensors needed at the same time where the graph is widest, at most five."""
        widest = max(range(len(self._live)), key=lambda at: len(self._live[at]))
        return sorted(self._live[widest])[:5]

    def can_leave_out(self, start: str, stop: str) -> bool:
        """Never: an EEC copies nothing of a file, whose layers do not learn."""
        return False

    def block(self, start: str, stop: str) -> OnnxPart:
        """The part of the graph that computes `stop` from `start`."""
        model = onnx.ModelProto()
        model.CopyFrom(self.file.model)
        graph = model.graph
        ends = ((graph.input, start), (graph.output, stop))
        for field_, name in ends:
            shape: list[str | int | None] = ["samples", *self.shapes[name][1:]]
            del field_[:]
            field_.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        kept = [node for node in graph.node if not {start, COUNT}.intersection(node.output)]
        del graph.node[:]
        graph.node.extend([count_of(start), *kept])
        del graph.value_info[:]
        keep_needed(model)
        _leave_no_notes(model)
        onnx.checker.check_model(model)
        names = _layer_names(graph)
        return OnnxPart(model, {name: self.macs[made] for made, name in names.items() if made in self.macs})


def _layer_names(graph: Any) -> dict[str, str]:
    """A name for every node, by the tensor it makes: its own, unless it has none or shares it."""
    own = [node.name for node in graph.node]
    return {
        node.output[0]: node.name if own.count(node.name) == 1 and node.name else node.output[0]
        for node in graph.node
    }


def _leave_no_notes(model: Any) -> None:
    """Drop what exporters note down, such as paths on the machine that they ran on."""
    del model.metadata_props[:]
    model.producer_name = model.producer_version = model.doc_string = model.graph.doc_string = ""
    for part in (*model.graph.node, *model.graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
