"""An edge answers as its own OpenAPI says; `python -m benchmarks.schemas` asks many times more."""

from __future__ import annotations

import pytest

from offramp.bundle import Bundle
from offramp.cli.processes import node_process

pytest.importorskip("schemathesis", reason="needs schemathesis, of the extra 'dev'")

from benchmarks.schemas import document_at, held_to_its_schema


def test_every_operation_answers_as_it_is_documented(tiny_bundle: Bundle) -> None:
    with node_process("edge_node", [str(tiny_bundle.directory), "--port", "0"], name="edge") as edge:
        url = f"http://{edge.address}"
        document = document_at(url)
        assert document is not None
        found = {held.operation: held for held in held_to_its_schema(url, document, examples=5)}
    assert {"POST /v1/predict", "PUT /v1/policy", "GET /healthz"} <= found.keys()
    assert all(held.statuses for held in found.values())
    assert not {name: held.wrong for name, held in found.items() if held.wrong}
