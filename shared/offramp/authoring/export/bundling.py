"""Exports a trained network as a bundle: one ONNX graph per block, and a manifest that describes them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from offramp.authoring.export.graphs import export_graphs
from offramp.authoring.export.proof import prove_equal
from offramp.authoring.export.weights import Weights, stored
from offramp.authoring.networks.check import check_answers, check_split_point
from offramp.authoring.networks.confidence import Confidence, measure_of
from offramp.authoring.networks.cost import NetworkCost, network_cost
from offramp.authoring.networks.early_exit import EarlyExitNetwork
from offramp.bundle import Bundle, OperatingPoint, Preprocessing, write_bundle
from offramp.bundle.manifest import Block, Exit, Levels, Manifest, Tensor, manifest_of
from offramp.bundle.provenance import Provenance
from offramp.bundle.task import SINGLE_LABEL, Task
from offramp.errors import ConfigError
from offramp.wire.codec import codec_for_levels

_FULL = "full"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,66}")  # the id adds thirteen characters, to eighty at most


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
    weights: Weights = "float32",
    task: Task = SINGLE_LABEL,
) -> Bundle:
    """Write a bundle and prove that it computes the same as the network.

    Its one operating point, 'full', never stops early: calibration adds the others.

    Args:
        network: trained.
        directory: new or empty.
        name: of the bundle; its id adds a digest of the contents.
        labels: of the classes, in the network's order.
        preprocessing: from pixels to the input of the network's first block.
        split_point: first block that the cloud runs.
        confidences: of every exit, shallow to deep; the task's usual measure unless given.
        aggregates: whether the last exit answers with the geometric mean of all exits.
        provenance: how the network was made.
        weights: how they are stored. float16 halves the files, int8 quarters them; they are rounded after the proof, so
            what that changes shows in calibration and evaluation.
        task: what the network was trained for; a regression has no labels.

    Raises:
        ConfigError: the name is not allowed; the task cannot be aggregated; the network does not fit task,
            preprocessing, labels or split point; an EEC costs more than the block after it; or there is not one
            confidence for each exit.
        BundleError: the directory is not empty, or the graphs differ from the network by more than 1e-5.
    """
    _check_name(name)
    check_answers(network.eval(), preprocessing, len(labels), task)
    check_split_point(network, split_point)
    _check_aggregates(task, aggregates=aggregates)
    confidences = _one_for_each(network.num_exits, confidences, task)
    cost = _checked_cost(network, preprocessing)

    def manifest(graphs: Mapping[int, bytes]) -> Manifest:
        blocks = _blocks(network, graphs, preprocessing, cost, confidences)
        return manifest_of(
            name=name,
            labels=tuple(labels),
            task=task,
            preprocessing=preprocessing,
            blocks=blocks,
            operating_points=(_full(blocks, len(confidences), split_point),),
            default_operating_point=_FULL,
            layers=tuple(cost.layers),
            aggregates=aggregates,
            provenance=provenance,
        )

    graphs = export_graphs(network, preprocessing, cost, confidences)
    prove_equal(Bundle(directory, manifest(graphs), graphs), network, confidences)
    graphs = {number: stored(graph, weights) for number, graph in graphs.items()}
    return write_bundle(directory, manifest(graphs), graphs)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"a bundle cannot be named '{name}'; expected at most 67 characters of a-z, 0-9, '.', '_' and '-', the "
            "first a letter or a digit; rename its directory or give --name"
        )


def _one_for_each(num_exits: int, given: Sequence[Confidence] | None, task: Task) -> Sequence[Confidence]:
    confidences = given or [Confidence(measure_of(task), task=task)] * num_exits
    if len(confidences) != num_exits:
        raise ConfigError(f"{len(confidences)} confidences for {num_exits} exits; give one for each")
    if any(confidence.task != task for confidence in confidences):
        raise ConfigError(f"a confidence is for another task than {task.kind}; give those of this task")
    return confidences


def _check_aggregates(task: Task, *, aggregates: bool) -> None:
    if aggregates and task != SINGLE_LABEL:
        raise ConfigError(
            f"exits that answer {task.kind} cannot be aggregated, since a geometric mean is of probabilities that sum "
            "to 1; leave out --aggregate"
        )


def _full(blocks: Sequence[Block], num_exits: int, split_point: int) -> OperatingPoint:
    """The point at which every sample goes to the last exit."""
    return OperatingPoint(
        name=_FULL,
        thetas=(1.0,) * (num_exits - 1),
        split_point=split_point,
        codec=codec_for_levels(blocks[split_point - 2]) if blocks[split_point - 2].levels else "float32",
    )


def _blocks(
    network: EarlyExitNetwork,
    graphs: Mapping[int, bytes],
    preprocessing: Preprocessing,
    cost: NetworkCost,
    confidences: Sequence[Confidence],
) -> tuple[Block, ...]:
    blocks = []
    taken = Tensor(shape=preprocessing.pixel_shape, dtype="uint8")
    exit_numbers = {block: number for number, block in enumerate(sorted(cost.eecs), start=1)}
    for number, graph in graphs.items():
        narrowed = network.bottleneck_behind(number)
        feature = Tensor(shape=cost.feature_shapes[number], dtype="uint8" if narrowed else "float32")
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


def _checked_cost(network: EarlyExitNetwork, preprocessing: Preprocessing) -> NetworkCost:
    cost = network_cost(network, (preprocessing.channels, preprocessing.height, preprocessing.width))
    for number, eec_macs in cost.eecs.items():
        if number < len(cost.blocks) and eec_macs >= cost.blocks[number + 1]:
            raise ConfigError(
                f"the EEC after block {number} costs {eec_macs} multiplications, but block {number + 1} only "
                f"{cost.blocks[number + 1]}, so leaving early would not pay; make the EEC smaller or move it"
            )
    return cost
