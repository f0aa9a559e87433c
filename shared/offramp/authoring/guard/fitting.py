"""Adds a guard to every early exit of a bundle.

The Gaussians are fitted on training photos, which are many; the limit on held-out ones, which training never saw: the
network knows the former by heart, so they seem more familiar than any new photo. Shapes: N samples, D numbers of each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from offramp.authoring.data.photos import Pixels, batches
from offramp.authoring.guard.gaussian import fit_gaussian, limit_for
from offramp.authoring.guard.graphs import guarded, outputs_of, watched
from offramp.bundle import Bundle
from offramp.bundle.manifest import Block, Guard, Manifest
from offramp.bundle.renewed import renewed
from offramp.errors import BundleError, ConfigError

_BATCH = 32
_TYPICAL = 0.9  # each exit's distances are compared in units of this quantile of its own


@dataclass(frozen=True)
class Guarded:
    """A bundle's contents, with guards; not yet on the disk."""

    manifest: Manifest
    graphs: Mapping[int, bytes]


def add_guards(
    bundle: Bundle,
    training: Pixels,
    held_out: Pixels,
    *,
    false_alarms: float,
    advance: Callable[[int], None] = lambda _: None,
) -> Guarded:
    """Fit a guard for every exit but the last, and add it to the graph of its block.

    All exits share the false alarms: a photo like the held-out ones is found unfamiliar by any of them with a chance of
    at most `false_alarms`. Of the operating points only 'full' is left, because θ must be chosen again.

    Args:
        bundle: without guards.
        training: photos that the network was trained on.
        held_out: photos that it never saw, and that no guarantee is tested on.
        false_alarms: share of familiar photos, above 0 and below 1.
        advance: called with the number of photos done since the last call.

    Raises:
        ConfigError: the bundle has no early exit or has guards already, or there are too few held-out photos.
        BundleError: a graph has no place for a guard.
    """
    manifest = bundle.manifest
    blocks = [block for block in manifest.blocks if block.exit and block.exit.number < manifest.num_exits]
    if not blocks or manifest.is_guarded:
        found = "has guards already" if blocks else "has no early exit, so there is nothing to guard"
        raise ConfigError(
            f"{bundle.directory} {found}; give a bundle that `offramp export` made, with early exits"
        )
    seen = _Seen(bundle, blocks)
    known, new = seen.of(training, advance), seen.of(held_out, advance)
    gaussians = {}
    for number, seen_ND in known.items():
        try:
            gaussian = fit_gaussian(seen_ND)
        except ConfigError as error:
            raise ConfigError(f"exit {_exit_at(manifest, number)}: {error}") from error
        typical = float(np.quantile(gaussian.distances(new[number]), _TYPICAL))
        gaussians[number] = gaussian.with_limit(typical)
    farthest_N = np.max([gaussian.distances(new[number]) for number, gaussian in gaussians.items()], axis=0)
    limit = limit_for(false_alarms, farthest_N)
    gaussians = {number: gaussian.with_limit(limit) for number, gaussian in gaussians.items()}
    graphs = dict(bundle.graphs) | {
        number: guarded(bundle.graphs[number], gaussian) for number, gaussian in gaussians.items()
    }
    guards = {
        number: Guard(false_alarms=false_alarms, samples=len(farthest_N), macs=gaussian.macs)
        for number, gaussian in gaussians.items()
    }
    return Guarded(_described(manifest, graphs, guards), graphs)


class _Seen:
    """Runs the first blocks of a bundle, and gathers what guards would see."""

    def __init__(self, bundle: Bundle, blocks: list[Block]) -> None:
        last = blocks[-1].number
        exits = {block.number for block in blocks}
        self._sessions = []
        for number in range(1, last + 1):
            try:
                graph = watched(bundle.graphs[number]) if number in exits else bundle.graphs[number]
            except BundleError as error:
                raise BundleError(
                    f"{bundle.directory / bundle.manifest.blocks[number - 1].file}: {error}"
                ) from error
            self._sessions.append((number, onnxruntime.InferenceSession(graph), outputs_of(graph)))

    def of(self, pixels: Pixels, advance: Callable[[int], None]) -> dict[int, NDArray[np.float32]]:
        """What the guard of each block sees (N, D), by the number of the block."""
        found: dict[int, list[NDArray[np.float32]]] = {}
        for photos in batches(pixels):
            for start in range(0, len(photos), _BATCH):
                batch: NDArray[Any] = photos[start : start + _BATCH]
                advance(len(batch))
                for number, session, names in self._sessions:
                    values = dict(
                        zip(names, session.run(None, {session.get_inputs()[0].name: batch}), strict=True)
                    )
                    batch = values["feature"]
                    if "guard_seen" in values:
                        found.setdefault(number, []).append(values["guard_seen"])
        return {number: np.concatenate(parts) for number, parts in found.items()}


def _exit_at(manifest: Manifest, block: int) -> int:
    exit = manifest.blocks[block - 1].exit
    assert exit is not None
    return exit.number


def _described(manifest: Manifest, graphs: Mapping[int, bytes], guards: Mapping[int, Guard]) -> Manifest:
    blocks = []
    for block in manifest.blocks:
        if guard := guards.get(block.number):
            assert block.exit is not None
            exit = block.exit.model_copy(update={"guard": guard, "macs": block.exit.macs + guard.macs})
            block = block.model_copy(update={"exit": exit})
        blocks.append(block)
    return renewed(manifest, blocks, graphs)
