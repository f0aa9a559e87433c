"""What the picture of a network shows: where each block runs, and how many photos leave after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from offramp.bundle import Manifest
from offramp_dashboard.figures import Payload, exit_shares, payloads
from offramp_dashboard.history import SAMPLES
from offramp_dashboard.rates import Increments, by_labels
from offramp_dashboard.schemas import Policy, Readiness


@dataclass(frozen=True)
class Stage:
    """A block and the exit after it. share: of all photos that leave there; None before the first photo."""

    number: int
    macs: int
    feature: str
    exit: str | None = None
    exit_macs: int = 0
    theta: float | None = None
    share: float | None = None


@dataclass(frozen=True)
class Tier:
    """Consecutive blocks that one node runs, and what comes in from the tier before.

    sent: None if it is not known, because the watched node counts only what it sends itself. feature_in: shape of the
    feature before these blocks, if any was sent.
    """

    number: int
    name: str
    stages: tuple[Stage, ...]
    share_in: float | None = None
    sent: tuple[Payload, ...] | None = None
    feature_in: str = ""


def pictured(
    manifest: Manifest,
    policy: Policy | None,
    readiness: Readiness | None,
    gained: Increments,
    *,
    own: str = "edge",
) -> list[Tier]:
    """The tiers of a network, starting at the photo; `own` is the node's own name in its answers.

    A node does not say which blocks it runs, but answers name the tier of their exit. For exits without answers yet,
    we go by the split point of the operating point in force, or by the fact that there is no upstream.
    """
    names = manifest.exit_names
    shares = exit_shares(gained)
    stages = []
    for block in manifest.blocks:
        feature = "×".join(map(str, block.feature.shape)) if block.feature else ""
        if block.exit is None:
            stages.append(Stage(block.number, block.macs, feature))
            continue
        at = block.exit.number - 1
        thetas = policy.thetas if policy else ()
        stages.append(
            Stage(
                block.number,
                block.macs,
                feature,
                exit=names[at],
                exit_macs=block.exit.macs,
                theta=thetas[at] if at < len(thetas) else None,
                share=shares.get(names[at], 0.0) if shares else None,
            )
        )
    return _tiers(stages, _tier_of_blocks(manifest, policy, readiness, gained, own), shares, gained)


def macs_for_a_photo(tiers: Sequence[Tier]) -> tuple[float | None, int]:
    """Multiplications per photo on average, None before the first, and those of a photo that passes every exit.

    All exits before the one that answers are computed too; those after it are not.
    """
    stages = [stage for tier in tiers for stage in tier.stages]
    whole = sum(stage.macs + stage.exit_macs for stage in stages)
    if all(stage.share is None for stage in stages):
        return None, whole
    taken, staying = 0.0, 1.0
    for stage in stages:
        taken += staying * (stage.macs + stage.exit_macs)
        staying -= stage.share or 0.0
    return taken, whole


def _tier_of_blocks(
    manifest: Manifest, policy: Policy | None, readiness: Readiness | None, gained: Increments, edge: str
) -> list[str]:
    seen = {labels[0]: labels[1] for labels in by_labels(gained, SAMPLES, "exit", "tier")}
    if readiness is not None and readiness.upstream is None:
        return [edge] * len(manifest.blocks)
    points = {point.name: point for point in manifest.operating_points}
    name = (policy and policy.operating_point) or manifest.default_operating_point
    split = points[name].split_point if name in points else 2
    exits = manifest.exit_names
    tiers: list[str] = []
    for block in reversed(manifest.blocks):
        told = seen.get(exits[block.exit.number - 1]) if block.exit else None
        deeper = tiers[-1] if tiers else "upstream"
        tiers.append(told or (edge if block.number < split else deeper if deeper != edge else "upstream"))
    return tiers[::-1]


def _tiers(stages: list[Stage], names: list[str], shares: dict[str, float], gained: Increments) -> list[Tier]:
    found: list[Tier] = []
    left = 0.0
    for name, group in groupby(zip(names, stages, strict=True), key=lambda pair: pair[0]):
        own = tuple(stage for _, stage in group)
        share_in = 1.0 - left if shares else None
        sent = tuple(payloads(gained)) if len(found) == 1 else None
        feature = found[-1].stages[-1].feature if found else ""
        found.append(Tier(len(found) + 1, name, own, share_in, sent, feature))
        left += sum(stage.share or 0.0 for stage in own)
    return found
