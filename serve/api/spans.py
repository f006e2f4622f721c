"""Requests as spans of a trace. The only file that imports OpenTelemetry, and imported only where wanted.

One span for an HTTP request, after the semantic conventions for HTTP and for generative AI, with a child for
each stage of each choice. All are made when the request has ended, from the times written down meanwhile.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from serve.api.exchange import Exchange
from serve.times import Times

OPERATIONS = {"/v1/chat/completions": "chat", "/v1/completions": "text_completion"}


def to_collector(endpoint: str) -> SpanProcessor:
    """Sends spans to an OTLP/HTTP endpoint, in batches, from a thread of its own."""
    return BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint))


class Spans:
    """Makes the spans of requests that have ended, and hands them to ``processor``."""

    def __init__(self, processor: SpanProcessor) -> None:
        name = os.environ.get("OTEL_SERVICE_NAME", "twinserve")
        # It flushes at the process's exit by itself.
        provider = TracerProvider(resource=Resource.create({"service.name": name}))
        provider.add_span_processor(processor)
        self.tracer = provider.get_tracer("twinserve")
        self.incoming = TraceContextTextMapPropagator()

    def __call__(self, exchange: Exchange) -> None:
        """Export one request: below the caller's span where it sent a W3C traceparent."""
        ended = exchange.began if exchange.ended is None else exchange.ended
        span = self.tracer.start_span(
            f"{exchange.method} {exchange.path}",
            # Of its own, lest it end up below a span of whoever runs this task.
            context=self.incoming.extract(exchange.trace, context=Context()),
            kind=SpanKind.SERVER,
            attributes=dict(_attributes(exchange)),
            start_time=_nanoseconds(exchange, exchange.began),
        )
        if exchange.status >= 500:
            span.set_status(StatusCode.ERROR)
        parent = set_span_in_context(span, Context())
        for choice, times in enumerate(exchange.answers):
            for name, start, stop in _stages(times, ended):
                self.tracer.start_span(
                    name,
                    context=parent,
                    attributes={"twinserve.choice": choice},
                    start_time=_nanoseconds(exchange, start),
                ).end(_nanoseconds(exchange, stop))
        span.end(_nanoseconds(exchange, ended))


def _stages(times: Times, ended: float) -> Iterator[tuple[str, float, float]]:
    """Name, begin and end of what the engine did; a stage that was cut short ends with the request."""
    end = ended if times.ended is None else times.ended
    if times.arrived is not None:
        yield "queue", times.arrived, end if times.admitted is None else times.admitted
    if times.routing is not None and times.routed is not None:
        yield "route", times.routing, times.routed
    if times.admitted is not None:
        yield "prefill", times.admitted, end if times.first is None else times.first
    if times.first is not None:
        yield "decode", times.first, end


def _attributes(exchange: Exchange) -> Iterator[tuple[str, AttributeValue]]:
    yield "http.request.method", exchange.method
    yield "url.path", exchange.path
    if exchange.status:
        yield "http.response.status_code", exchange.status
    if exchange.request_id is not None:
        yield "twinserve.request_id", exchange.request_id
    if exchange.left:
        yield "twinserve.disconnected", True
    if exchange.model is not None:
        yield "gen_ai.provider.name", "twinserve"
        yield "gen_ai.request.model", exchange.model
        yield "gen_ai.response.model", exchange.model
        yield "gen_ai.request.choice.count", len(exchange.answers)
        yield "gen_ai.usage.input_tokens", exchange.prompt_tokens or 0
        yield "gen_ai.usage.output_tokens", exchange.completion_tokens or 0
        yield "gen_ai.response.finish_reasons", exchange.finish_reasons
        if (operation := OPERATIONS.get(exchange.path)) is not None:
            yield "gen_ai.operation.name", operation
    if exchange.trial is not None:
        yield "twinserve.experiment", exchange.trial.label
    if (routing := exchange.routing) is not None:
        yield "twinserve.arm", routing.arm
        yield "twinserve.mixture", json.dumps(routing.mixture, sort_keys=True)
        yield "twinserve.generation", routing.generation
        if routing.confidence is not None:
            yield "twinserve.confidence", routing.confidence


def _nanoseconds(exchange: Exchange, moment: float) -> int:
    return int(exchange.wall(moment) * 1e9)
