"""How often a guarantee is broken, against the naive choice of thresholds.

    python -m benchmarks.guarantee models/b-alexnet-cifar10 --data data/cifar10.zip

Predictions for the test images stand for the world. Each round draws two small samples from it: one proposes
thresholds, the other tests them; what is left tells the true risk. The naive choice takes the cheapest thresholds
whose risk on the first sample is at most ε, as one does without a test.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from offramp.cli.errors import told_in_one_line
from rich.console import Console
from rich.table import Table

from offramp.authoring.data import load_images
from offramp.authoring.evaluation.predictions import predict_every_exit
from offramp.authoring.evaluation.table import ExitTable
from offramp.authoring.selection.guarantee import Guarantee, choose_guaranteed
from offramp.authoring.selection.thresholds import search_thresholds
from offramp.bundle import load_bundle
from offramp.cli.progress import progress


@told_in_one_line
def main(
    bundle: Annotated[Path, typer.Argument(help="Bundle directory.")],
    data: Annotated[Path, typer.Option(help="Its test data.")],
    rounds: Annotated[int, typer.Option(help="Random splits.")] = 1000,
    samples: Annotated[int, typer.Option(help="Samples that propose, and as many that test.")] = 500,
    epsilon: Annotated[
        float, typer.Option(help="Risk that is to be kept: disagreement with the full network.")
    ] = 0.02,
    delta: Annotated[float, typer.Option(help="How often it may be exceeded.")] = 0.1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Count broken promises over many random splits.

    Example: python -m benchmarks.guarantee models/b-lenet-mnist --data data/mnist
    """
    loaded = load_bundle(bundle)
    manifest = loaded.manifest
    images = load_images(data, "test", manifest.preprocessing)
    with progress("images", len(images)) as advance:
        predictions = predict_every_exit(loaded, images.pixels, advance=advance)
    world = predictions.harmless("disagreement", images.classes_as(manifest.labels))
    guarantee = Guarantee(epsilon=epsilon, delta=delta)
    outcomes: dict[str, list[tuple[float, float]]] = {"guaranteed": [], "naive": []}
    generator = np.random.default_rng(0)
    with progress("rounds", rounds) as advance:
        for _ in range(rounds):
            drawn = generator.permutation(world.num_samples)
            proposing, testing, rest = np.split(drawn, [samples, 2 * samples])
            first = world.take(proposing)
            chosen = choose_guaranteed(first, world.take(testing), manifest.exit_macs, guarantee)
            naive = search_thresholds(first, manifest.exit_macs).cheapest(max_drop=100 * epsilon)
            for name, thetas in (("guaranteed", chosen.thetas), ("naive", naive.thetas)):
                outcomes[name].append(_truth(world.take(rest), thetas, manifest.exit_macs))
            advance(1)
    rows = {
        name: {
            "broken": float(np.mean([risk > epsilon for risk, _ in outcome])),
            "risk_mean": float(np.mean([risk for risk, _ in outcome])),
            "less_work": manifest.backbone_macs / float(np.mean([macs for _, macs in outcome])),
        }
        for name, outcome in outcomes.items()
    }
    if as_json:
        print(
            json.dumps(
                {"bundle": manifest.bundle_id, "rounds": rounds, "epsilon": epsilon, "delta": delta, **rows}
            )
        )
        return
    table = Table(
        title=f"{manifest.bundle_id}: {rounds} rounds, risk at most {epsilon:.1%} but for {delta:.0%}"
    )
    for column in ("choice", "promise broken", "mean risk", "less work"):
        table.add_column(column, justify="left" if column == "choice" else "right")
    for name, row in rows.items():
        table.add_row(name, f"{row['broken']:.1%}", f"{row['risk_mean']:.2%}", f"{row['less_work']:.2f} x")
    Console().print(table)


def _truth(rest: ExitTable, thetas: tuple[float, ...], exit_macs: tuple[int, ...]) -> tuple[float, float]:
    taken = rest.exit_taken(thetas)
    harmless = rest.correct[np.arange(rest.num_samples), taken]
    return float((~harmless).mean()), float(np.array(exit_macs)[taken].mean())


if __name__ == "__main__":
    typer.run(main)
