"""The table of scenarios. A new one is a function from a `Stage` to an `Outcome`, and a row in its module's list."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.chaos import attacks, bundles, leaving, lies, overload, surroundings, tiers, web
from tests.chaos.stage import Outcome, Scenario, Stage

SCENARIOS: Sequence[Scenario] = sorted(
    (
        scenario
        for part in (attacks, overload, tiers, lies, leaving, surroundings, bundles, web)
        for scenario in part.SCENARIOS
    ),
    key=lambda scenario: scenario.row,
)


async def run(scenario: Scenario, *, short: bool) -> Outcome:
    """Run one scenario with nodes of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="offramp-chaos-") as folder,
        Stage(Path(folder), short=short) as stage,
    ):
        return await scenario.run(stage)
