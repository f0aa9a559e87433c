"""Traces a request across tiers with OpenTelemetry spans; off by default.

Tracing needs an OTLP endpoint and the extra `otel`. The parent span travels as W3C `traceparent`, in an HTTP header to
the edge and in gRPC metadata between tiers. Stages are attributes of a span, because a separate span for each would
cost more than a small network. Spans get their parent explicitly, because an ambient context would double their cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from opentelemetry.trace import INVALID_SPAN, NoOpTracer, Span, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from offramp.errors import ConfigError
from offramp.install import how_to_install

if TYPE_CHECKING:  # of the extra `otel`
    from opentelemetry.sdk.trace import SpanProcessor

TRACEPARENT = "traceparent"
OFF: Tracer = NoOpTracer()

_W3C = TraceContextTextMapPropagator()


def request_span(
    tracer: Tracer, name: str, traceparent: str | None, attributes: Mapping[str, str | int]
) -> Span:
    """Start the span of one request, as a child of the caller's span if there is one; a `with` block ends it."""
    if tracer is OFF:
        return INVALID_SPAN
    above = _W3C.extract({TRACEPARENT: traceparent}) if traceparent else None
    return tracer.start_span(name, above, attributes=attributes)


def span_below(tracer: Tracer, span: Span, name: str) -> Span:
    """Start a child of another span."""
    if tracer is OFF:
        return INVALID_SPAN
    return tracer.start_span(name, set_span_in_context(span))


def traceparent_of(span: Span) -> str | None:
    """The `traceparent` to send to a deeper tier; None if nothing is recorded."""
    if span is INVALID_SPAN or not span.get_span_context().is_valid:
        return None
    sent: dict[str, str] = {}
    _W3C.inject(sent, set_span_in_context(span))
    return sent[TRACEPARENT]


@contextmanager
def tracer_to(endpoint: str | None, *, service: str, share: float = 1.0) -> Iterator[Tracer]:
    """A tracer that sends to an OTLP endpoint over HTTP; without an endpoint, one that records nothing.

    Spans that are still queued are sent at the end of the block.

    Args:
        endpoint: of a collector, such as http://127.0.0.1:4318/v1/traces.
        service: the tier's name.
        share: of the requests to trace, 0 to 1; a request that its caller traces is always traced.

    Raises:
        ConfigError: OpenTelemetry's SDK is not installed.
    """
    if endpoint is None:
        yield OFF
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ConfigError(f"tracing needs {error.name}; run: {how_to_install('otel')}") from error
    processor = BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint))
    with _tracer_into(processor, service=service, share=share) as tracer:
        yield tracer


@contextmanager
def _tracer_into(processor: SpanProcessor, *, service: str, share: float) -> Iterator[Tracer]:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    provider = TracerProvider(
        resource=Resource.create({"service.name": f"offramp-{service}"}),
        sampler=ParentBased(TraceIdRatioBased(share)),
    )
    provider.add_span_processor(processor)
    try:
        yield provider.get_tracer("offramp")
    finally:
        provider.shutdown()
