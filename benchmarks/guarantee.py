"""How often a guarantee is broken, compared with a naive choice of thresholds.

    python -m benchmarks.guarantee models/b-alexnet-cifar10 --data data/cifar10.zip

Predictions for the test images stand for the world. Each round draws two small samples from them: one proposes
thresholds, the other tests them. The remaining images give the true risk. The naive choice takes the cheapest
thresholds whose risk on the first sample is at most ε, without a test.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from pydantic import Field
from rich.console import Console
from rich.table import Table

from offramp.authoring.data import load_images
from offramp.authoring.evaluation.predictions import predict_every_exit
from offramp.authoring.evaluation.table import ExitTable
from offramp.authoring.selection.guarantee import Guarantee, choose_guaranteed
from offramp.authoring.selection.thresholds import search_thresholds
from offramp.bundle import Manifest, load_bundle
from offramp.cli.options import BundleArgument
from offramp.cli.progress import progress
from offramp.command import Command, run_command


class BrokenPromises(Command):
    """Count how often the guarantee is broken over many random splits.

    Example: python -m benchmarks.guarantee models/b-lenet-mnist --data data/mnist
    """

    bundle: BundleArgument
    data: Path = Field(description="test data of the bundle")
    rounds: int = Field(default=1000, ge=1, description="random splits")
    samples: int = Field(
        default=500, ge=1, description="samples that propose thresholds; as many again test them"
    )
    epsilon: float = Field(
        default=0.02, description="highest risk allowed: disagreement with the full network"
    )
    delta: float = Field(default=0.1, description="how often it may be exceeded")
    as_json: bool = Field(default=False, alias="json", description="print one JSON object")

    def execute(self) -> None:
        """Draw, choose and count; then show both choices."""
        loaded = load_bundle(self.bundle)
        manifest = loaded.manifest
        images = load_images(self.data, "test", manifest.preprocessing)
        with progress("images", len(images)) as advance:
            predictions = predict_every_exit(loaded, images.pixels, advance=advance)
        world = predictions.harmless("disagreement", images.classes_as(manifest.labels))
        rows = {
            name: {
                "broken": float(np.mean([risk > self.epsilon for risk, _ in outcome])),
                "risk_mean": float(np.mean([risk for risk, _ in outcome])),
                "less_work": manifest.backbone_macs / float(np.mean([macs for _, macs in outcome])),
            }
            for name, outcome in self._outcomes(world, manifest).items()
        }
        if self.as_json:
            asked = {"rounds": self.rounds, "epsilon": self.epsilon, "delta": self.delta}
            print(json.dumps({"bundle": manifest.bundle_id, **asked, **rows}))
            return
        promise = f"risk at most {self.epsilon:.1%} with {1 - self.delta:.0%} confidence"
        table = Table(title=f"{manifest.bundle_id}: {self.rounds} rounds, {promise}")
        for column in ("choice", "guarantee broken", "mean risk", "less work"):
            table.add_column(column, justify="left" if column == "choice" else "right")
        for name, row in rows.items():
            table.add_row(
                name, f"{row['broken']:.1%}", f"{row['risk_mean']:.2%}", f"{row['less_work']:.2f} x"
            )
        Console().print(table)

    def _outcomes(self, world: ExitTable, manifest: Manifest) -> dict[str, list[tuple[float, float]]]:
        """True risk and MACs of both choices, in every round."""
        guarantee = Guarantee(epsilon=self.epsilon, delta=self.delta)
        outcomes: dict[str, list[tuple[float, float]]] = {"guaranteed": [], "naive": []}
        generator = np.random.default_rng(0)
        with progress("rounds", self.rounds) as advance:
            for _ in range(self.rounds):
                drawn = generator.permutation(world.num_samples)
                proposing, testing, rest = np.split(drawn, [self.samples, 2 * self.samples])
                first = world.take(proposing)
                chosen = choose_guaranteed(first, world.take(testing), manifest.exit_macs, guarantee)
                naive = search_thresholds(first, manifest.exit_macs).cheapest(max_drop=100 * self.epsilon)
                for name, thetas in (("guaranteed", chosen.thetas), ("naive", naive.thetas)):
                    outcomes[name].append(_truth(world.take(rest), thetas, manifest.exit_macs))
                advance(1)
        return outcomes


def _truth(rest: ExitTable, thetas: tuple[float, ...], exit_macs: tuple[int, ...]) -> tuple[float, float]:
    taken = rest.exit_taken(thetas)
    harmless = rest.correct[np.arange(rest.num_samples), taken]
    return float((~harmless).mean()), float(np.array(exit_macs)[taken].mean())


if __name__ == "__main__":
    run_command(BrokenPromises, sys.argv[1:], program="python -m benchmarks.guarantee")
