"""From a trained network to a bundle: one ONNX graph per block, with all that decides compiled in.

Shapes: B samples, H x W pixels, C channels, K classes.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from offramp.authoring.networks.bottleneck import Decode, Encode
from offramp.authoring.networks.confidence import Confidence
from offramp.authoring.networks.cost import NetworkCost, network_cost
from offramp.authoring.networks.early_exit import EarlyExitNetwork
from offramp.authoring.networks.normalise import Normalise
from offramp.bundle import Bundle, OperatingPoint, Preprocessing, write_bundle
from offramp.bundle.manifest import Block, Exit, Levels, Provenance, manifest_of
from offramp.bundle.manifest import Tensor as TensorSpec
from offramp.engine.runtime import load_blocks
from offramp.errors import BundleError, ConfigError

_TOLERANCE = 1e-5
_RARE = 1e-3
_FULL = "full"


def export_bundle(
    network: EarlyExitNetwork,
    directory: Path,
    *,
    name: str,
    labels: Sequence[str],
    preprocessing: Preprocessing,
    split_point: int,
    confidences: Sequence[Confidence] | None = None,
    aggregates: bool = False,
    provenance: Provenance | None = None,
) -> Bundle:
    """Write a bundle and prove that it computes what the network does.

    Its one operating point, 'full', never stops early: calibration adds the others.

    Args:
        network: trained.
        directory: new or empty.
        name: of the bundle; its id adds a digest of the contents.
        labels: of the classes, in the network's order.
        preprocessing: from pixels to what the network's first block takes.
        split_point: first block that the cloud runs.
        confidences: of every exit, shallow to deep; max softmax unless given.
        aggregates: whether the last exit answers with the geometric mean of all exits.
        provenance: what made the network.

    Raises:
        ConfigError: an EEC that costs more than the block behind it, or other numbers of labels and classes, or of
            confidences and exits.
        BundleError: the directory is not empty, or the graphs differ from the network by more than 1e-5.
    """
    network = network.eval()
    cost = network_cost(network, (preprocessing.channels, preprocessing.height, preprocessing.width))
    _check_costs(cost)
    _check_labels(network, preprocessing, labels)
    confidences = confidences or [Confidence()] * network.num_exits
    if len(confidences) != network.num_exits:
        raise ConfigError(f"{len(confidences)} confidences for {network.num_exits} exits; give one for each")
    graphs = _export_graphs(network, preprocessing, cost, confidences)
    manifest = manifest_of(
        name=name,
        labels=tuple(labels),
        preprocessing=preprocessing,
        blocks=_blocks(network, graphs, preprocessing, cost, confidences),
        operating_points=(
            OperatingPoint(
                name=_FULL,
                thetas=(1.0,) * (network.num_exits - 1),
                split_point=split_point,
                codec="ans" if network.narrowed(split_point - 1) else "float32",
            ),
        ),
        default_operating_point=_FULL,
        layers=tuple(cost.layers),
        aggregates=aggregates,
        provenance=provenance,
    )
    _prove(Bundle(directory, manifest, graphs), network, confidences)
    return write_bundle(directory, manifest, graphs)


class _ExportedBlock(nn.Module):
    """A block as its graph computes it: (feature, probabilities, confidence), or those of the three it has."""

    def __init__(
        self,
        block: nn.Module,
        eec: nn.Module | None,
        confidence: Confidence | None,
        leaving: nn.Module | None,
    ) -> None:
        super().__init__()
        self.block = block
        self.eec = eec
        self.leaving = leaving
        self._confidence = confidence

    @property
    def output_names(self) -> list[str]:
        return (["feature"] if self.leaving else []) + (["probabilities", "confidence"] if self.eec else [])

    def forward(self, batch: Tensor) -> tuple[Tensor, ...]:
        feature = self.block(batch)
        handed_on = (self.leaving(feature),) if self.leaving else ()
        if self.eec is None or self._confidence is None:
            return handed_on
        return (*handed_on, *self._confidence.of(self.eec(feature)))


class _Contiguous(nn.Module):
    """Nothing, in a graph; the exporter makes detours for tensors whose channels torch keeps last."""

    def forward(self, image_BCHW: Tensor) -> Tensor:
        return image_BCHW.contiguous()


def _export_graphs(
    network: EarlyExitNetwork,
    preprocessing: Preprocessing,
    cost: NetworkCost,
    confidences: Sequence[Confidence],
) -> Mapping[int, bytes]:
    graphs = {}
    behind = dict(zip(network.exit_blocks, confidences, strict=True))
    # Two samples: with one, the exporter would take the batch for a constant.
    batch = torch.zeros(2, *preprocessing.pixel_shape, dtype=torch.uint8)
    for number, block in enumerate(network.blocks, start=1):
        arriving, narrowed = network.narrowed(number - 1), network.narrowed(number)
        if number == 1:
            block = nn.Sequential(Normalise(preprocessing), _Contiguous(), block)
        elif arriving is not None:
            block = nn.Sequential(Decode(arriving), block)
        leaving: nn.Module | None = Encode(narrowed) if narrowed is not None else nn.Identity()
        if number == len(network.blocks):
            leaving = None
        exported = _ExportedBlock(block, network.eec_behind(number), behind.get(number), leaving).eval()
        graphs[number] = _to_onnx(exported, batch)
        dtype = torch.uint8 if narrowed is not None else torch.float32
        batch = torch.zeros(2, *cost.feature_shapes[number], dtype=dtype)
    return graphs


def _to_onnx(block: _ExportedBlock, batch: Tensor) -> bytes:
    with _silenced():
        program = torch.onnx.export(
            block,
            (batch,),
            input_names=["batch"],
            output_names=block.output_names,
            dynamic_shapes=({0: torch.export.Dim("samples", min=1)},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    del model.metadata_props[:]
    for node in model.graph.node:
        # The exporter notes the source line of every node, paths of this machine included.
        del node.metadata_props[:]
        node.doc_string = ""
    parts: list[Any] = [
        *model.graph.value_info,
        *model.graph.input,
        *model.graph.output,
        *model.graph.initializer,
    ]
    for part in parts:
        del part.metadata_props[:]
        part.doc_string = ""
    _keep_layout(model.graph)
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)


def _keep_layout(graph: onnx.GraphProto) -> None:
    """Let what a residual network adds up first pass a pool over single values, unless a convolution made it.

    It changes nothing. But ONNX Runtime fuses convolutions and sums in a layout of its own, and only where all that is
    added comes from an operator that has it; the input of a graph does not, nor what a bottleneck is widened to, and
    every sum behind it is taken out of that layout and back.
    """
    made_by = {output: node for node in graph.node for output in node.output}
    for name in (graph.input[0].name, *made_by):
        if {"Add", "Conv"} <= {node.op_type for node in graph.node if name in node.input}:
            break
    else:
        return
    origin = made_by.get(name)
    while origin and origin.op_type in ("Relu", "BatchNormalization"):
        origin = made_by.get(origin.input[0])
    if origin and origin.op_type in ("Add", "Conv"):
        return
    for node in graph.node:
        node.input[:] = [f"{name}_kept" if given == name else given for given in node.input]
    at = list(graph.node).index(made_by[name]) + 1 if name in made_by else 0
    pool = onnx.helper.make_node("MaxPool", [name], [f"{name}_kept"], kernel_shape=[1, 1])
    graph.node.insert(at, pool)


def _blocks(
    network: EarlyExitNetwork,
    graphs: Mapping[int, bytes],
    preprocessing: Preprocessing,
    cost: NetworkCost,
    confidences: Sequence[Confidence],
) -> tuple[Block, ...]:
    blocks = []
    taken = TensorSpec(shape=preprocessing.pixel_shape, dtype="uint8")
    exit_numbers = {block: number for number, block in enumerate(sorted(cost.eecs), start=1)}
    for number, graph in graphs.items():
        narrowed = network.narrowed(number)
        feature = TensorSpec(shape=cost.feature_shapes[number], dtype="uint8" if narrowed else "float32")
        exit_number = exit_numbers.get(number)
        blocks.append(
            Block(
                number=number,
                file=f"block-{number}.onnx",
                sha256=hashlib.sha256(graph).hexdigest(),
                input=taken,
                feature=feature if number < len(graphs) else None,
                levels=Levels(frequencies=narrowed.frequencies) if narrowed else None,
                macs=cost.blocks[number],
                exit=Exit(
                    number=exit_number,
                    measure=confidences[exit_number - 1].measure,
                    temperature=confidences[exit_number - 1].temperature,
                    macs=cost.eecs[number],
                )
                if exit_number
                else None,
            )
        )
        taken = feature
    return tuple(blocks)


def _check_costs(cost: NetworkCost) -> None:
    for number, eec_macs in cost.eecs.items():
        if number < len(cost.blocks) and eec_macs >= cost.blocks[number + 1]:
            raise ConfigError(
                f"the EEC behind block {number} costs {eec_macs} multiplications, block {number + 1} only "
                f"{cost.blocks[number + 1]}: leaving early would not pay; make the EEC smaller or move it"
            )


def _check_labels(network: EarlyExitNetwork, preprocessing: Preprocessing, labels: Sequence[str]) -> None:
    image = torch.zeros(1, preprocessing.channels, preprocessing.height, preprocessing.width)
    with torch.no_grad():
        for number, logits_BK in enumerate(network(image), start=1):
            if logits_BK.shape[1] != len(labels):
                raise ConfigError(
                    f"exit {number} tells {logits_BK.shape[1]} classes apart, but there are {len(labels)} labels"
                )


def _prove(bundle: Bundle, network: EarlyExitNetwork, confidences: Sequence[Confidence]) -> None:
    preprocessing = bundle.manifest.preprocessing
    pixels = np.random.default_rng(0).integers(0, 256, (8, *preprocessing.pixel_shape), dtype=np.uint8)
    feature = Normalise(preprocessing)(torch.from_numpy(pixels))
    how = iter(confidences)
    batch: NDArray[Any] = pixels
    for number, runner in enumerate(load_blocks(bundle, 1, len(bundle.manifest.blocks)), start=1):
        output = runner.run(batch)
        eec, narrowed = network.eec_behind(number), network.narrowed(number)
        with torch.no_grad():
            feature = network.blocks[number - 1](feature)
            if eec is not None:
                expected = next(how).of(eec(feature))
                _compare(number, expected, (output.probabilities, output.confidence))
            if narrowed is not None and output.feature is not None:
                _compare_codes(number, narrowed.encode(feature).numpy(), output.feature)
                feature = narrowed.decode(torch.from_numpy(output.feature))
        if output.feature is not None:
            batch = output.feature


def _compare(number: int, expected: Sequence[Tensor], found: Sequence[NDArray[np.float32] | None]) -> None:
    difference = max(
        float(np.abs(a.numpy() - b).max()) for a, b in zip(expected, found, strict=True) if b is not None
    )
    if not difference <= _TOLERANCE:
        raise BundleError(
            f"the exported graphs differ from the network by {difference:.2e} behind block {number}, more than "
            f"{_TOLERANCE:.0e}; do not serve this bundle"
        )


def _compare_codes(number: int, expected: NDArray[np.uint8], found: NDArray[Any]) -> None:
    # A value that lies between two levels may be rounded either way; it must be a rare one, and a neighbour.
    apart = np.abs(expected.astype(np.int64) - found)
    if apart.max() > 1 or apart.mean() > _RARE:
        raise BundleError(
            f"the exported code of block {number} differs from the network's by up to {apart.max()} levels, at "
            f"{apart.mean():.2%} of its values; do not serve this bundle"
        )


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    # The exporter reports its progress on standard output and warns of its own internals.
    log = logging.getLogger("torch.onnx")
    level = log.level
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            log.setLevel(level)
