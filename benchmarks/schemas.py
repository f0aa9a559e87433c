"""Holds running nodes to their own OpenAPI, with requests that it allows and others: `python -m benchmarks.schemas`.

schemathesis makes the requests. An answer fails if its status is 500 or above or isn't documented, or if its content
type, headers or body are not what the document says.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from pydantic import Field
from rich.console import Console
from rich.table import Table
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.core.failures import FailureGroup

from offramp.cli.progress import progress
from offramp.command import Command, run_command
from offramp.errors import ConfigError
from tests.chaos.nodes import BUNDLE, free_port, node

_CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)


@dataclass
class Held:
    """What came of one operation: how many requests got each status, and what was wrong, once for each kind."""

    operation: str
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: dict[str, str] = field(default_factory=dict)


def document_at(url: str) -> dict[str, Any] | None:
    """The OpenAPI document of the node at `url`; None if it has none."""
    found = httpx.get(f"{url}/openapi.json", trust_env=False)
    if found.status_code != 200 or "json" not in found.headers.get("content-type", ""):
        return None
    document: dict[str, Any] = found.json()
    return document


def held_to_its_schema(
    url: str, document: dict[str, Any], *, examples: int, start: int = 1
) -> Iterator[Held]:
    """Send every operation `examples` requests that its document allows, and as many that it doesn't.

    Args:
        url: of a running node.
        document: its OpenAPI.
        examples: of each kind, for each operation.
        start: seed of the requests.
    """
    load_all_checks()
    checks = [CHECKS.get_one(name) for name in _CHECKS]
    schema = schemathesis.openapi.from_dict(document)
    with requests.Session() as session:
        session.trust_env = False
        for result in schema.get_all_operations():
            operation = result.ok()  # type: ignore[union-attr] # our own document is sound
            held = Held(operation.label)
            for mode in schemathesis.GenerationMode:
                _ask(held, operation, mode, checks, session, url, examples, start)
            yield held


def _ask(
    held: Held,
    operation: Any,
    mode: schemathesis.GenerationMode,
    checks: list[Any],
    session: requests.Session,
    url: str,
    examples: int,
    start: int,
) -> None:
    @seed(start)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        response = case.call(base_url=url, session=session, timeout=30)
        held.statuses[response.status_code] += 1
        try:
            # 504 is what a request with a limit of its own asks for.
            wanted = [
                check
                for check in checks
                if response.status_code != 504 or "server_error" not in check.__name__
            ]
            case.validate_response(response, checks=wanted)
        except FailureGroup as group:
            for failure in group.exceptions:
                title = f"{response.status_code}: {getattr(failure, 'title', type(failure).__name__)}"
                held.wrong.setdefault(title, f"{case.as_curl_command()[:300]} → {failure}"[:600])

    try:
        ask()
    except Unsatisfiable:
        return  # an operation without parameters takes nothing that it doesn't allow


class Schemas(Command):
    """Hold an edge and a cloud's metrics port to their OpenAPI; needs the extra dev.

    Example: python -m benchmarks.schemas --examples 2000
    """

    examples: int = Field(
        default=1000, ge=1, description="requests of each kind, allowed and not, for each operation"
    )
    start: int = Field(default=1, ge=0, description="seed of the requests")

    def execute(self) -> None:
        """Start both nodes and ask; the exit status is 2 if an answer is wrong."""
        port = free_port()
        found: list[Held] = []
        with (
            tempfile.TemporaryDirectory() as folder,
            node(
                "cloud_node",
                [str(BUNDLE), "--port", "0", "--metrics-port", str(port)],
                Path(folder) / "cloud",
            ) as cloud,
            node("edge_node", [str(BUNDLE), "--port", "0"], Path(folder) / "edge") as edge,
        ):
            urls = {"edge": edge.url, "cloud": f"http://127.0.0.1:{port}"}
            assert cloud.address
            for name, url in urls.items():
                if (document := document_at(url)) is None:
                    print(f"the {name} node has no OpenAPI")
                    continue
                with progress(f"operations of the {name} node", len(document["paths"])) as advance:
                    for held in held_to_its_schema(url, document, examples=self.examples, start=self.start):
                        held.operation = f"{name}: {held.operation}"
                        found.append(held)
                        advance(1)
        _show(found)
        if wrong := sum(len(each.wrong) for each in found):
            raise ConfigError(f"{wrong} kinds of answers are not as documented")


def _show(found: list[Held]) -> None:
    table = Table("operation", "requests", "statuses", "wrong", title="Held to their OpenAPI")
    for each in found:
        statuses = ", ".join(f"{status}: {count}" for status, count in sorted(each.statuses.items()))
        table.add_row(each.operation, f"{each.statuses.total():,}", statuses, str(len(each.wrong)))
    table.add_row("all", f"{sum(each.statuses.total() for each in found):,}")
    console = Console()
    console.print(table)
    for each in found:
        for title, text in each.wrong.items():
            console.print(f"{each.operation}: {title}\n  {text}", markup=False, highlight=False)


if __name__ == "__main__":
    run_command(Schemas, sys.argv[1:], program="python -m benchmarks.schemas")
