"""Where one request's time went, across tiers: spans for OpenTelemetry, or nothing at all.

Off unless a node is given an OTLP endpoint; needs the extra `otel` then. The parent travels as W3C `traceparent`, in an
HTTP header to the edge and in gRPC metadata between tiers. Stages are attributes of a span: a span of its own for each
would cost more than a small network does. Spans get their parent by hand, since an ambient one costs as much again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from opentelemetry.trace import NoOpTracer, Span, Tracer, set_span_in_context
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
    """Begin the span of one request, below the caller's if it sent a valid parent; a `with` block ends it."""
    above = _W3C.extract({TRACEPARENT: traceparent}) if traceparent and tracer is not OFF else None
    return tracer.start_span(name, above, attributes=attributes)


def span_below(tracer: Tracer, span: Span, name: str) -> Span:
    """Begin a part of another span."""
    return tracer.start_span(name, set_span_in_context(span))


def traceparent_of(span: Span) -> str | None:
    """What a deeper tier needs to join in; None when nothing is recorded."""
    if not span.get_span_context().is_valid:
        return None
    sent: dict[str, str] = {}
    _W3C.inject(sent, set_span_in_context(span))
    return sent[TRACEPARENT]


@contextmanager
def tracer_to(endpoint: str | None, *, service: str, share: float = 1.0) -> Iterator[Tracer]:
    """A tracer to an OTLP endpoint over HTTP, as in http://127.0.0.1:4318/v1/traces; one that is off for None.

    What still waits to be sent is sent at the end of the block.

    Args:
        endpoint: of a collector.
        service: the tier's name.
        share: of the requests that are traced, 0 to 1; one whose caller traces it always is.

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
