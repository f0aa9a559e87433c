"""Every attack and fault of the table, for a short time; `python -m benchmarks.chaos` takes its time and writes a page.

It takes some ten minutes and wants a machine that is otherwise idle, so it runs only when asked for: OFFRAMP_CHAOS=1.
"""

from __future__ import annotations

import os

import pytest

from tests.chaos.scenarios import SCENARIOS, run
from tests.chaos.stage import Scenario

pytestmark = [
    pytest.mark.skipif(
        os.environ.get("OFFRAMP_CHAOS") != "1",
        reason="needs minutes and an idle machine: OFFRAMP_CHAOS=1",
    ),
    pytest.mark.timeout(300),
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_what_is_promised_holds_under(scenario: Scenario) -> None:
    found = await run(scenario, short=True)
    assert not found.failed, "\n".join(f"{each.what}: {each.found}" for each in found.failed)
