"""One request's spans across tiers, as an OTLP collector receives them."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from offramp.bundle import Bundle
from tests.nodes import closed_port_address, png, predict, running_cloud, running_edge

PHOTO = png(np.full((8, 8, 3), 128, np.uint8))


class Collector:
    """Takes spans over HTTP and keeps them: (service, name) -> span."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Any]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    name = next(
                        a for a in resource.resource.attributes if a.key == "service.name"
                    ).value.string_value
                    collector.spans += [(name, s) for scope in resource.scope_spans for s in scope.spans]
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}/v1/traces"


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector()
    thread = Thread(target=found.server.serve_forever)
    thread.start()
    yield found
    found.server.shutdown()
    thread.join()
    found.server.server_close()


async def test_one_trace_leads_from_the_request_to_the_blocks_in_the_cloud(
    tiny_bundle: Bundle, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with caplog.at_level(logging.INFO):
        async with (
            running_cloud(tiny_bundle, otlp_endpoint=collector.endpoint) as cloud,
            running_edge(tiny_bundle, upstream=cloud, otlp_endpoint=collector.endpoint) as client,
        ):
            await client.put("/v1/policy", json={"thetas": [1.0, 1.0]})
            await predict(client, PHOTO, traceparent=caller, **{"x-request-id": "walk-7"})
    names = {(service, span.name): span for service, span in collector.spans}
    assert set(names) == {
        ("offramp-edge", "edge classify"),
        ("offramp-edge", "offload"),
        ("offramp-cloud", "cloud classify"),
    }
    assert {span.trace_id.hex() for _, span in collector.spans} == {caller.split("-")[1]}
    top, offload, deep = (
        names[key]
        for key in (
            ("offramp-edge", "edge classify"),
            ("offramp-edge", "offload"),
            ("offramp-cloud", "cloud classify"),
        )
    )
    assert top.parent_span_id.hex() == caller.split("-")[2]
    assert (offload.parent_span_id, deep.parent_span_id) == (top.span_id, offload.span_id)
    for span in names.values():
        assert top.start_time_unix_nano - 2_000_000 <= span.start_time_unix_nano <= span.end_time_unix_nano
    for span in (top, deep):
        told = {a.key: a.value for a in span.attributes}
        assert told["offramp.request_id"].string_value == "walk-7"
        assert all(told[f"offramp.{stage}_ms"].double_value > 0 for stage in ("queue", "decode", "blocks"))
    answered = {
        r.name for r in caplog.records if re.search(r"event=answered request=walk-7\b", r.getMessage())
    }
    assert answered == {"edge_node", "cloud_node"}


async def test_without_an_endpoint_nothing_is_recorded_and_nothing_sent_along(
    tiny_bundle: Bundle, collector: Collector
) -> None:
    async with running_cloud(tiny_bundle) as cloud, running_edge(tiny_bundle, upstream=cloud) as client:
        await client.put("/v1/policy", json={"thetas": [1.0, 1.0]})
        assert not (await predict(client, PHOTO))["degraded"]
    assert not collector.spans


async def test_an_offload_that_fails_says_so_in_its_span(tiny_bundle: Bundle, collector: Collector) -> None:
    async with running_edge(
        tiny_bundle, upstream=closed_port_address(), otlp_endpoint=collector.endpoint
    ) as client:
        await client.put("/v1/policy", json={"thetas": [1.0, 1.0]})
        assert (await predict(client, PHOTO))["degraded"]
    [offload] = [span for _, span in collector.spans if span.name == "offload"]
    assert offload.status.code == Status.STATUS_CODE_ERROR
    assert "cannot be reached" in offload.status.message
    assert next(span for _, span in collector.spans if span.name == "edge classify").status.code == 0


@pytest.mark.parametrize("parent", ["", "nonsense", "00-0-0-01", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
async def test_a_parent_that_is_none_begins_a_trace_of_its_own(
    tiny_bundle: Bundle, collector: Collector, parent: str
) -> None:
    async with running_edge(tiny_bundle, blocks="1-3", otlp_endpoint=collector.endpoint) as client:
        await predict(client, PHOTO, traceparent=parent)
    top = next(span for _, span in collector.spans if span.name == "edge classify")
    assert top.parent_span_id == b"" and any(top.trace_id)


async def test_of_many_requests_only_a_share_is_traced_unless_the_caller_asks(
    tiny_bundle: Bundle, collector: Collector
) -> None:
    asked = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with running_edge(
        tiny_bundle, blocks="1-3", otlp_endpoint=collector.endpoint, trace_share=0.0
    ) as client:
        for _ in range(5):
            await predict(client, PHOTO)
        await predict(client, PHOTO, traceparent=asked)
    assert [span.trace_id.hex() for _, span in collector.spans] == ["0af7651916cd43dd8448eb211c80319c"]
