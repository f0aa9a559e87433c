"""Where one request's time went, across tiers: spans for OpenTelemetry, or nothing at all.

Off unless a node is given an OTLP endpoint; needs the extra `otel` then. The parent travels as W3C `traceparent`, in an
HTTP header to the edge and in gRPC metadata between tiers. Stages are attributes of a span: a span of its own for each
would cost more than a small network does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from offramp.errors import ConfigError
from offramp.install import how_to_install

HEADER = "traceparent"


class Trace(Protocol):
    """One span of a request."""

    @property
    def traceparent(self) -> str | None:
        """What a deeper tier needs to join in; None when nothing is recorded."""
        ...

    def stages(self, milliseconds: Mapping[str, float]) -> None:
        """Say where its time went."""
        ...

    @contextmanager
    def child(self, name: str) -> Iterator[Trace]:
        """Add a part that lasts as long as the block; deeper tiers hang below it."""
        ...


class Tracing(Protocol):
    """Begins a trace, or joins the caller's."""

    @contextmanager
    def request(self, name: str, traceparent: str | None, **attributes: str | int) -> Iterator[Trace]:
        """The span of one request at this node."""
        ...

    def close(self) -> None:
        """Send what is still waiting."""
        ...


class _Off:
    """Records nothing, and costs next to nothing."""

    traceparent = None

    def stages(self, milliseconds: Mapping[str, float]) -> None:
        pass

    @contextmanager
    def child(self, name: str) -> Iterator[Trace]:
        yield self

    @contextmanager
    def request(self, name: str, traceparent: str | None, **attributes: str | int) -> Iterator[Trace]:
        yield self

    def close(self) -> None:
        pass


OFF = _Off()


def tracing_to(endpoint: str | None, *, service: str, share: float = 1.0) -> Tracing:
    """Tracing to an OTLP endpoint over HTTP, as in http://127.0.0.1:4318/v1/traces; off for None.

    Args:
        endpoint: of a collector.
        service: the tier's name.
        share: of the requests that are traced, 0 to 1; one whose caller traces it always is.

    Raises:
        ConfigError: OpenTelemetry is not installed.
    """
    if endpoint is None:
        return OFF
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ConfigError(f"tracing needs {error.name}; run: {how_to_install('otel')}") from error
    return OtelTracing(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)), service=service, share=share)


class OtelTracing:
    """Spans for OpenTelemetry."""

    def __init__(self, processor: Any, *, service: str, share: float = 1.0) -> None:
        """Hand spans to a span processor of the SDK; see `tracing_to`."""
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

        self._provider = TracerProvider(
            resource=Resource.create({"service.name": f"offramp-{service}"}),
            sampler=ParentBased(TraceIdRatioBased(share)),
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("offramp")

    @contextmanager
    def request(self, name: str, traceparent: str | None, **attributes: str | int) -> Iterator[Trace]:
        """The span of one request; below the caller's, if it sent a valid parent."""
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        above = TraceContextTextMapPropagator().extract({HEADER: traceparent}) if traceparent else None
        span = self._tracer.start_span(name, context=above, attributes=attributes)
        try:
            yield _OtelTrace(self._tracer, span)
        except Exception as error:
            span.record_exception(error)
            raise
        finally:
            span.end()

    def close(self) -> None:
        """Send what is still waiting."""
        self._provider.shutdown()


class _OtelTrace:
    def __init__(self, tracer: Any, span: Any) -> None:
        self._tracer = tracer
        self._span = span

    @property
    def traceparent(self) -> str | None:
        own = self._span.get_span_context()
        return f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags:02x}"

    def stages(self, milliseconds: Mapping[str, float]) -> None:
        self._span.set_attributes({f"offramp.{name}_ms": spent for name, spent in milliseconds.items()})

    @contextmanager
    def child(self, name: str) -> Iterator[Trace]:
        from opentelemetry.trace import set_span_in_context

        span = self._tracer.start_span(name, context=set_span_in_context(self._span))
        try:
            yield _OtelTrace(self._tracer, span)
        finally:
            span.end()
