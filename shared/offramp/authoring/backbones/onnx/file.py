"""Reads an ONNX file that somebody else exported, and brings it into the one form that the rest of Offramp cuts.

Shapes: B samples, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

import copy
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import TensorProto, helper, inliner

from offramp.authoring.backbones.onnx.batch import free_batch
from offramp.authoring.backbones.onnx.run import first_line, session_of, values_of
from offramp.authoring.backbones.onnx.sizes import settle_sizes
from offramp.errors import ConfigError

OPSET = 20  # what torch's exporter writes; EECs are exported with it
_LOGITS_RANK = 2
_CHANNELS = (1, 3, 4)


@dataclass(frozen=True, eq=False)
class OnnxFile:
    """A classifier from an ONNX file.

    model: takes `image` (B, C, H, W), float32, of any B, and returns its logits (B, K) alone. original: as it was in
    the file, but with the tensor of the logits as its output. image_shape: (C, H, W). one_by_one: whether the original
    takes one image at a time. channels_last: whether it takes (B, H, W, C).
    """

    model: Any
    original: Any
    image_shape: tuple[int, int, int]
    one_by_one: bool
    channels_last: bool

    def answers(self, image_BCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        """The logits (B, K) of the original."""
        images = image_BCHW.transpose(0, 2, 3, 1) if self.channels_last else image_BCHW
        batches = np.split(images, len(images)) if self.one_by_one else [images]
        ran = session_of(self.original)
        name = ran.get_inputs()[0].name
        return np.concatenate([ran.run(None, {name: np.ascontiguousarray(batch)})[0] for batch in batches])


def read_classifier(model: Any, image_shape: tuple[int, int, int] | None) -> OnnxFile:
    """Read a classifier and simplify it: constants folded, one opset, any number of images, shapes written out.

    Args:
        model: an `onnx.ModelProto`, or the path of a file; tensors in further files beside it are read too.
        image_shape: (C, H, W), needed if the file does not say it.

    Raises:
        ConfigError: it is no image classifier in float32, or is missing a part; the message says which.
    """
    original = _inlined(_loaded(model))
    image = _image_input(original)
    shape, channels_last = _image_shape(image, image_shape)
    batch = image.type.tensor_type.shape.dim[0].dim_value
    if batch > 1:
        raise ConfigError(
            f"the file takes exactly {batch} images at a time; export it for one image, or for any number of them "
            "(dynamic_axes or dynamic_shapes)"
        )
    _fix_size(image, shape, channels_last)
    _keep_logits(original, shape, channels_last)
    form = copy.deepcopy(original)
    _take_channels_first(form, shape, channels_last)
    form = _in_one_opset(_folded(form))
    if batch == 1:
        free_batch(form, shape)
    settle_sizes(form, shape)
    return OnnxFile(form, original, shape, one_by_one=batch == 1, channels_last=channels_last)


def _loaded(model: Any) -> Any:
    if isinstance(model, str | Path):
        try:
            return onnx.load(model)
        except (OSError, DecodeError, onnx.checker.ValidationError) as error:
            raise ConfigError(
                f"{model} cannot be read as an ONNX file: {first_line(error)}; give an .onnx file, with the files of "
                "its weights beside it, if it has some"
            ) from error
    if any(onnx.external_data_helper.uses_external_data(tensor) for tensor in model.graph.initializer):
        raise ConfigError(
            "the model's weights are in a file of their own; give the path of the .onnx file instead"
        )
    return copy.deepcopy(model)


def _inlined(model: Any) -> Any:
    versions = [opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")]
    if not versions or not model.graph.node:
        raise ConfigError(
            "the file has no graph of ONNX's standard operators (no opset); export the model again"
        )
    model = inliner.inline_local_functions(model) if model.functions else model
    # Before IR version 4, weights were inputs as well, and so not constant.
    weights = {tensor.name for tensor in model.graph.initializer}
    for given in [one for one in model.graph.input if one.name in weights]:
        model.graph.input.remove(given)
    model.ir_version = max(model.ir_version, 4)
    return model


def _image_input(model: Any) -> Any:
    inputs = model.graph.input
    if len(inputs) != 1:
        names = ", ".join(given.name for given in inputs) or "none"
        raise ConfigError(f"the file has {len(inputs)} inputs ({names}), expected one: a batch of images")
    kind = inputs[0].type.tensor_type
    if kind.elem_type != TensorProto.FLOAT:
        found = TensorProto.DataType.Name(kind.elem_type).lower()
        raise ConfigError(
            f"the file's input {inputs[0].name} is {found}, expected float32: normalised pixels; export it in float32, "
            "with the preprocessing outside"
        )
    if len(kind.shape.dim) != 4:
        raise ConfigError(
            f"the file's input {inputs[0].name} has {len(kind.shape.dim)} dimensions, expected 4: (B, C, H, W)"
        )
    return inputs[0]


def _image_shape(image: Any, wished: tuple[int, int, int] | None) -> tuple[tuple[int, int, int], bool]:
    """(C, H, W), and whether the file has the channels last."""
    sides = tuple(dim.dim_value for dim in image.type.tensor_type.shape.dim[1:])
    channels_last = sides[2] in _CHANNELS and sides[0] not in _CHANNELS
    found = (sides[2], sides[0], sides[1]) if channels_last else sides
    shape = wished or found
    if any(side < 1 for side in shape):
        raise ConfigError(
            "the file does not say how large its images are; give image_shape, such as (3, 224, 224)"
        )
    if any(side not in (0, given) for side, given in zip(found, shape, strict=True)):
        raise ConfigError(f"the file takes images of shape {found}, but image_shape is {shape}; leave it out")
    channels, height, width = shape
    return (channels, height, width), channels_last


def _fix_size(image: Any, shape: tuple[int, int, int], channels_last: bool) -> None:
    for dim, side in zip(image.type.tensor_type.shape.dim[1:], _sides(shape, channels_last), strict=True):
        dim.dim_value = side


def _keep_logits(model: Any, shape: tuple[int, int, int], channels_last: bool) -> None:
    """Leave one output: the first of two dimensions, or what its softmax was computed from."""
    names = [output.name for output in model.graph.output]
    found = values_of(model, names, np.zeros((1, *_sides(shape, channels_last)), np.float32))
    name = next((n for n, v in found.items() if v.ndim == _LOGITS_RANK and v.dtype == np.float32), None)
    if name is None:
        shapes = ", ".join(f"{n} {v.dtype} {v.shape}" for n, v in found.items())
        raise ConfigError(f"the file returns {shapes}, expected logits (B, K) in float32 among its outputs")
    made_by = {made: node for node in model.graph.node for made in node.output}
    while name in made_by and made_by[name].op_type in ("Softmax", "Identity"):
        name = made_by[name].input[0]
    if name in made_by and made_by[name].op_type == "Sigmoid":
        raise ConfigError(
            "the file ends in a sigmoid, which says yes or no for each class; expected logits or a softmax, which "
            "choose one of them"
        )
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))


def _sides(shape: tuple[int, int, int], channels_last: bool) -> tuple[int, int, int]:
    channels, height, width = shape
    return (height, width, channels) if channels_last else shape


def _take_channels_first(model: Any, shape: tuple[int, int, int], channels_last: bool) -> None:
    image = _image_input(model)
    if channels_last:
        taken = f"{image.name}_channels_first"
        model.graph.node.insert(0, helper.make_node("Transpose", [taken], [image.name], perm=[0, 2, 3, 1]))
        image.name = taken
        for dim, side in zip(image.type.tensor_type.shape.dim[1:], shape, strict=True):
            dim.dim_value = side
    if image.type.tensor_type.shape.dim[0].dim_value != 1:
        image.type.tensor_type.shape.dim[0].dim_param = "samples"


def _folded(model: Any) -> Any:
    """ONNX Runtime's basic optimisation: it folds constants and drops what does nothing, in standard operators."""
    del model.graph.value_info[:]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "folded.onnx"
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(path)
        session_of(model, options=options)
        folded = onnx.load(path)
    control = {node.op_type for node in folded.graph.node} & {"If", "Loop", "Scan"}
    if control:
        raise ConfigError(
            f"the file's graph decides what to compute while it runs ({control.pop()}), so it cannot be cut; export "
            "the model for images of one size"
        )
    return folded


def _in_one_opset(model: Any) -> Any:
    for opset in [one for one in model.opset_import if one.domain not in ("", "ai.onnx")]:
        if all(node.domain != opset.domain for node in model.graph.node):
            model.opset_import.remove(opset)
    version = next(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
    if version >= OPSET:
        return model
    try:
        return onnx.version_converter.convert_version(model, OPSET)
    except Exception as error:
        raise ConfigError(
            f"the file has opset {version}, and cannot be brought to {OPSET}: {first_line(error)}; export it again "
            "with a newer opset"
        ) from error
