"""Turns a bundle into another one whose blocks compute in int8, block by block and layer by layer where that pays.

Each block sees what the quantised blocks before it hand on. Shapes: N samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from offramp.authoring.quantising.graphs import Scale
from offramp.authoring.quantising.layers import Chosen, choose_layers
from offramp.bundle import Bundle
from offramp.bundle.manifest import Block, Levels, Manifest, Tensor
from offramp.bundle.renewed import renewed
from offramp.errors import BundleError, ConfigError
from offramp.wire.codec import codec_for_levels

_LEAST_TRAINING, _LEAST_HELD_OUT = 100, 20
_LONGEST = 62  # of a bundle's name that can still be told to be in int8
_BATCH = 32


@dataclass(frozen=True)
class QuantisedBundle:
    """A bundle's contents in int8, not yet on the disk, and what was decided for each of its blocks, in order."""

    manifest: Manifest
    graphs: Mapping[int, bytes]
    chosen: Sequence[Chosen]


def quantise(
    bundle: Bundle,
    training: NDArray[np.uint8],
    held_out: NDArray[np.uint8],
    *,
    most_change: float,
    timed: bool = True,
    advance: Callable[[int], None] = lambda _: None,
) -> QuantisedBundle:
    """Quantise every block, but for the layers that are faster in float32 here, and those that change its outputs most.

    Of the operating points only 'full' is left, because θ must be chosen again.

    Args:
        bundle: in float32, without guards.
        training: pixels (N, H, W, C) of photos that the network was trained on: ranges come from them.
        held_out: of photos that it never saw, and that no guarantee is tested on: changes are measured on them.
        most_change: of any output of a block, relative to its size, as the root of a mean square.
        timed: whether layers are timed on this machine; otherwise all that can be are in int8.
        advance: called with 1 for each block that is done.

    Raises:
        ConfigError: the bundle is quantised already or has guards, there are too few photos, or int8 pays nowhere.
        BundleError: a block cannot be quantised: an output is no number, or its graph is not one that the tools read.
    """
    manifest = bundle.manifest
    _check(bundle, len(training), len(held_out))
    ranges: NDArray[Any] = training
    compared: NDArray[Any] = held_out
    taken: Scale | None = None
    graphs: dict[int, bytes] = {}
    blocks: list[Block] = []
    every: list[Chosen] = []
    for block in manifest.blocks:
        batches = [ranges[start : start + _BATCH] for start in range(0, len(ranges), _BATCH)]
        try:
            chosen = choose_layers(
                bundle.graphs[block.number], batches, compared, taken, most_change=most_change, timed=timed
            )
        except BundleError as error:
            raise BundleError(f"{bundle.directory / block.file}: {error}") from error
        every.append(chosen)
        graphs[block.number] = chosen.graph
        if block.feature is not None:
            ranges, compared = (_feature(chosen.graph, each) for each in (ranges, compared))
        levels = _levels(ranges) if chosen.handed_on else block.levels
        before = blocks[-1].feature if blocks else None
        blocks.append(_block(block, before, levels, narrowed=chosen.handed_on is not None))
        taken = chosen.handed_on
        advance(1)
    if all(chosen.left == chosen.layers for chosen in every):
        raise ConfigError(
            f"no layer of {bundle.directory} is faster in int8 on this machine, so there is nothing to gain; serve it "
            "as it is, or quantise on the machine that will serve it"
        )
    return QuantisedBundle(_manifest(manifest, blocks, graphs), graphs, every)


def _check(bundle: Bundle, training: int, held_out: int) -> None:
    manifest = bundle.manifest
    if manifest.precision != "float32":
        raise ConfigError(
            f"{bundle.directory} is in {manifest.precision} already; give the bundle that it was made from"
        )
    if manifest.is_guarded:
        raise ConfigError(
            f"{bundle.directory} has guards, which would see other features; quantise the bundle without them, then "
            "run `offramp guard` on the result"
        )
    for found, least, what in (
        (training, _LEAST_TRAINING, "training"),
        (held_out, _LEAST_HELD_OUT, "held-out"),
    ):
        if found < least:
            raise ConfigError(
                f"{found} {what} photos to quantise with, expected at least {least}: ranges and changes on so few say "
                "little about others; give more"
            )


def _block(block: Block, before: Tensor | None, levels: Levels | None, *, narrowed: bool) -> Block:
    changes: dict[str, Any] = {"levels": levels}
    if before is not None:
        changes["input"] = before
    if block.feature is not None and narrowed:
        changes["feature"] = block.feature.model_copy(update={"dtype": "uint8"})
    return block.model_copy(update=changes)


def _manifest(manifest: Manifest, blocks: Sequence[Block], graphs: Mapping[int, bytes]) -> Manifest:
    split = blocks[min(manifest.operating_point.split_point, len(blocks) + 1) - 2]
    codec = codec_for_levels(split) if split.levels else "float32"
    provenance = manifest.provenance
    if provenance is not None:
        versions = {**provenance.versions, "onnxruntime": onnxruntime.__version__}
        provenance = provenance.model_copy(update={"versions": versions})
    changes = {"name": f"{manifest.name[:_LONGEST]}-int8", "precision": "int8", "provenance": provenance}
    return renewed(manifest, blocks, graphs, point={"codec": codec}, **changes)


def _feature(graph: bytes, inputs: NDArray[Any]) -> NDArray[Any]:
    """What a block hands on, for each sample."""
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0].name
    return np.concatenate(
        [
            session.run(["feature"], {given: inputs[start : start + _BATCH]})[0]
            for start in range(0, len(inputs), _BATCH)
        ]
    )


def _levels(feature: NDArray[np.uint8]) -> Levels:
    """How often each level occurs, at least once."""
    counts = np.bincount(feature.reshape(-1), minlength=256)
    scaled = counts * min(1.0, (2**23) / counts.max())
    return Levels(frequencies=tuple(int(count) + 1 for count in scaled))
