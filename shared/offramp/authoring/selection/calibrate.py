"""Calibration: from held-out predictions to the bundle's list of operating points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

from numpy.typing import NDArray

from offramp.authoring.evaluation.offloads import Offloads
from offramp.authoring.evaluation.predictions import ExitPredictions
from offramp.authoring.evaluation.report import measured
from offramp.authoring.evaluation.table import ExitTable
from offramp.authoring.selection.budget import Budget, macs_budget
from offramp.authoring.selection.choice import Front
from offramp.authoring.selection.gates import gate_thetas
from offramp.authoring.selection.guarantee import Guarantee, choose_guaranteed, halves
from offramp.authoring.selection.quantiles import quantile_thetas
from offramp.authoring.selection.thresholds import search_thresholds
from offramp.bundle import Manifest, OperatingPoint
from offramp.bundle.manifest import Certificate
from offramp.errors import ConfigError

# Percentage points below the full network: from "costs nothing" to "as cheap as can be justified".
_LADDER = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_DEFAULT_DROP = 0.5

Scheme = Literal["search", "gates", "quantiles"]


def calibrate(
    manifest: Manifest,
    table: ExitTable,
    *,
    max_drop: float | None = None,
    max_cost: float | None = None,
    budget: Budget | None = None,
    scheme: Scheme = "search",
    exit_ms: Sequence[float] | None = None,
    offloads: Offloads | None = None,
) -> Manifest:
    """Choose operating points on held-out samples; the one you ask for becomes the default.

    The list always includes 'full', and the cheapest points at most 0, 0.1, … 5 percentage points below the full
    network ('drop-0', 'drop-0.1', …) unless they repeat another point. With a bottleneck, they are counted from the
    best accuracy that the exits reach together. All of these lie on the Pareto front, except 'full' and 'edge-only',
    the most accurate point that sends nothing.

    Args:
        manifest: of the bundle that made the predictions.
        table: what every exit answered for every held-out sample.
        max_drop: the default is the cheapest point at most this many percentage points below the full
            network; 0.5 unless given.
        max_cost: instead, the default is the most accurate point that costs at most this share of the backbone, 0 to 1.
        budget: instead, the default is the most accurate point within a limit of milliseconds or bytes.
        scheme: how to find the default. search: the best there is. gates: each exit by itself spoils at most
            `max_drop` percent of what it accepts. quantiles: geometric exit shares that cost `max_cost`.
        exit_ms: for each exit, milliseconds of a sample that leaves there, if measured.
        offloads: what each sample would send, if known; its payload becomes that of all points.

    Raises:
        ConfigError: both `max_drop` and `max_cost` are given, or no thresholds meet the request.
    """
    check_budget(max_drop=max_drop, max_cost=max_cost, scheme=scheme)
    table.check_confidences()
    front = _front(manifest, table)
    drop = _DEFAULT_DROP if max_drop is None else max_drop
    if max_cost is not None and (budget is None or scheme == "quantiles"):
        budget = macs_budget(manifest, max_cost)
    if scheme == "gates":
        default, thetas = f"gates-{drop:g}", gate_thetas(table, tolerance=drop / 100)
    elif budget:
        default, thetas = _within(budget, manifest, table, scheme)
    else:
        default, thetas = f"drop-{drop:g}", front.cheapest(max_drop=drop).thetas
    thetas_by_name = {"full": (1.0,) * (manifest.num_exits - 1), default: thetas}
    for rung in filter(front.reaches, _LADDER):
        thetas_by_name.setdefault(f"drop-{rung:g}", front.cheapest(max_drop=rung).thetas)
    thetas_by_name |= _edge_only(manifest, table)
    points = [
        measured(
            manifest,
            table,
            _point(manifest, name, thetas, offloads),
            exit_ms=exit_ms,
            offloads=offloads,
        )
        for name, thetas in _distinct(thetas_by_name, keep=default).items()
    ]
    return manifest.model_copy(
        update={"operating_points": _by_cost(points), "default_operating_point": default}
    )


def certify(
    manifest: Manifest,
    predictions: ExitPredictions,
    truth_N: NDArray[Any],
    guarantee: Guarantee,
    *,
    data_fingerprint: str,
    default: bool = True,
    exit_ms: Sequence[float] | None = None,
) -> Manifest:
    """Add the cheapest operating point that keeps a guarantee, with its certificate.

    Args:
        manifest: of the bundle that made the predictions, calibrated or not.
        predictions: of the held-out samples; one half proposes thresholds, the other tests them.
        truth_N: the true classes, in the bundle's numbering, or labels or values; 'disagreement' does not need them.
        guarantee: ε, δ and the risk.
        data_fingerprint: of the held-out samples, for the certificate.
        default: whether this point becomes the bundle's default.
        exit_ms: for each exit, milliseconds of a sample that leaves there, if measured.

    Raises:
        ConfigError: there are too few samples for any thresholds to pass.
    """
    harmless, right = predictions.harmless(guarantee.risk, truth_N), predictions.against(truth_N)
    proposing, testing = (harmless.take(half) for half in halves(harmless.num_samples))
    chosen = choose_guaranteed(proposing, testing, manifest.exit_macs, guarantee)
    certificate = Certificate(
        risk=guarantee.risk,
        epsilon=guarantee.epsilon,
        delta=guarantee.delta,
        samples=chosen.samples,
        failures=chosen.failures,
        p_value=chosen.p_value,
        data_fingerprint=data_fingerprint,
    )
    name = f"{guarantee.risk}-{guarantee.epsilon:g}"
    point = _point(manifest, name, chosen.thetas, predictions.offloads)
    point = point.model_copy(update={"certificate": certificate})
    others = [other for other in manifest.operating_points if other.name != name]
    found = measured(manifest, right, point, exit_ms=exit_ms, offloads=predictions.offloads)
    points = _by_cost([*others, found])
    served = name if default else manifest.default_operating_point
    return manifest.model_copy(update={"operating_points": points, "default_operating_point": served})


def check_budget(
    *,
    max_drop: float | None,
    max_cost: float | None,
    max_ms: float | None = None,
    max_bytes: float | None = None,
    scheme: str = "search",
) -> None:
    """Refuse a budget that makes no sense, before any work is done for it.

    Raises:
        ConfigError: the scheme is unknown or lacks its budget, several budgets are given, or one is out of its range.
    """
    if scheme not in get_args(Scheme):
        raise ConfigError(f"--scheme is '{scheme}'; expected {', '.join(get_args(Scheme))}")
    if scheme == "gates" and max_cost is not None:
        raise ConfigError("--scheme gates cannot keep a --max-cost; give --max-drop instead")
    if scheme == "quantiles" and max_cost is None:
        raise ConfigError("--scheme quantiles has no budget; give one with --max-cost")
    limits = {"--max-drop": max_drop, "--max-cost": max_cost, "--max-ms": max_ms, "--max-bytes": max_bytes}
    given = [name for name, limit in limits.items() if limit is not None]
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)} cannot be combined; give one of them")
    if scheme != "search" and given and given[0] in ("--max-ms", "--max-bytes"):
        raise ConfigError(f"--scheme {scheme} cannot be combined with {given[0]}; leave out one of them")
    for name in ("--max-ms", "--max-bytes"):
        limit = limits[name]
        if limit is not None and not 0 <= limit < math.inf:
            raise ConfigError(f"{name} is {limit}; give a number of 0 or more")
    if max_drop is not None and not 0 <= max_drop <= 100:
        raise ConfigError(f"--max-drop is {max_drop}, but percentage points lie between 0 and 100")
    if max_cost is not None and not 0 < max_cost <= 1:
        raise ConfigError(f"--max-cost is {max_cost}; a share of the backbone's cost lies between 0 and 1")


def _point(
    manifest: Manifest, name: str, thetas: tuple[float, ...], offloads: Offloads | None
) -> OperatingPoint:
    """A point with the split and codec of the bundle, and the payload that its predictions were made with."""
    kept = manifest.operating_point.model_dump(include={"split_point", "codec", "payload"})
    if offloads:
        kept["payload"] = offloads.payload
    return OperatingPoint(name=name, thetas=thetas, **kept)


def _front(manifest: Manifest, table: ExitTable) -> Front:
    front = search_thresholds(table, manifest.exit_macs)
    if any(block.levels for block in manifest.blocks):
        # With a bottleneck, the last exit may not be the most accurate: compare with the best of all choices.
        return replace(front, full_accuracy=front.path[0].accuracy)
    return front


def _within(
    budget: Budget, manifest: Manifest, table: ExitTable, scheme: Scheme
) -> tuple[str, tuple[float, ...]]:
    """Name and θ of the point that a scheme finds within a budget."""
    if scheme == "quantiles":
        name = budget.name.replace("cost-", "quantiles-")
        return name, quantile_thetas(table, manifest.exit_macs, max_macs=budget.limit)
    front = search_thresholds(table, budget.exit_costs)
    if budget.spent:
        front = replace(
            front,
            path=[replace(one, mean_cost=budget.spent(table.exit_taken(one.thetas))) for one in front.path],
        )
    return budget.name, front.most_accurate(max_cost=budget.limit, unit=budget.unit).thetas


def _edge_only(manifest: Manifest, table: ExitTable) -> dict[str, tuple[float, ...]]:
    local = sum(block < manifest.operating_point.split_point for block in manifest.exit_blocks)
    if not 0 < local < table.num_exits:
        return {}
    sooner: tuple[float, ...] = ()
    if local > 1:
        here = ExitTable(table.confidence[:, :local], table.correct[:, :local])
        sooner = search_thresholds(here, manifest.exit_macs[:local]).path[0].thetas
    return {"edge-only": (*sooner, 0.0, *(1.0,) * (table.num_exits - 1 - local))}


def _distinct(thetas_by_name: dict[str, tuple[float, ...]], *, keep: str) -> dict[str, tuple[float, ...]]:
    names = sorted(thetas_by_name, key=lambda name: name != keep)
    seen: dict[tuple[float, ...], str] = {}
    for name in names:
        seen.setdefault(thetas_by_name[name], name)
    return {name: thetas for thetas, name in seen.items()}


def _by_cost(points: Sequence[OperatingPoint]) -> tuple[OperatingPoint, ...]:
    return tuple(sorted(points, key=lambda point: -(point.measured.macs_mean if point.measured else 0.0)))
