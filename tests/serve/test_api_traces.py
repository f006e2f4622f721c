"""Requests as spans: the engine's own times, below whoever called, and nothing where nobody asked."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from compress.errors import InputError
from serve import tracing
from serve.api import spans as traced
from serve.api.app import create_app
from serve.api.exchange import Exchange
from serve.serversettings import ServerSettings, read_settings
from tests.serve.routed import add_router
from tests.serve.stub_engine import StubEngine

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SETTINGS = ServerSettings.model_construct(
    tracing=tracing.TracingSettings(endpoint="http://nowhere/v1/traces")
)


@pytest.fixture
def spans(monkeypatch) -> InMemorySpanExporter:
    """What apps with SETTINGS send."""
    memory = InMemorySpanExporter()
    monkeypatch.setattr(traced, "to_collector", lambda endpoint: SimpleSpanProcessor(memory))
    return memory


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    from serve.engine import Engine
    from serve.settings import EngineSettings
    from tests.bundles import adapter_zoo
    from tests.serve.packed import COSTS

    path = adapter_zoo(tmp_path_factory.mktemp("traced"), "llama").bundle.path
    add_router(path, features="embedding")
    made = Engine.open(path, EngineSettings(threads=1, costs=COSTS), name="tiny")
    yield made
    made.stop()


def post(engine: Any, body: dict[str, Any], path: str = "/v1/completions", **headers: str) -> httpx.Response:
    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(engine, SETTINGS))
        async with httpx.AsyncClient(transport=transport, base_url="http://twin") as client:
            return await client.post(path, json=body, headers=headers)

    return asyncio.run(run())


def family(memory: InMemorySpanExporter) -> tuple[Any, list[Any]]:
    """The request's span and its children."""
    *children, root = memory.get_finished_spans()
    assert all(child.parent.span_id == root.context.span_id for child in children)
    return root, children


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_a_span_with_its_stages_in_order(engine, spans, stream):
    body = {"model": "tiny", "prompt": "5 + 5 =", "max_tokens": 3, "ignore_eos": True, "stream": stream}
    response = post(engine, body, **{"x-request-id": "mine"})
    assert response.status_code == 200
    root, children = family(spans)
    assert (root.name, root.kind, root.parent) == ("POST /v1/completions", SpanKind.SERVER, None)
    assert dict(root.attributes) == {
        "http.request.method": "POST",
        "url.path": "/v1/completions",
        "http.response.status_code": 200,
        "twinserve.request_id": "mine",
        "gen_ai.provider.name": "twinserve",
        "gen_ai.operation.name": "text_completion",
        "gen_ai.request.model": "tiny",
        "gen_ai.response.model": "tiny",
        "gen_ai.request.choice.count": 1,
        "gen_ai.usage.input_tokens": root.attributes["gen_ai.usage.input_tokens"],
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.response.finish_reasons": ("length",),
        "twinserve.arm": "dynamic",
        "twinserve.mixture": '{"t0": 1.0}',
        "twinserve.generation": 1,
        "twinserve.confidence": pytest.approx(1, abs=0.5),
    }
    assert root.attributes["gen_ai.usage.input_tokens"] > 3
    stages = {child.name: child for child in children}
    assert list(stages) == ["queue", "route", "prefill", "decode"]
    moments = [root.start_time, stages["queue"].start_time, stages["route"].start_time]
    moments += [stages["route"].end_time, stages["queue"].end_time, stages["prefill"].end_time]
    moments += [stages["decode"].end_time, root.end_time]
    assert moments == sorted(moments)
    assert stages["prefill"].start_time == stages["queue"].end_time
    assert stages["decode"].start_time == stages["prefill"].end_time
    assert stages["decode"].end_time > stages["decode"].start_time


def test_every_choice_has_stages_and_named_weights_are_not_routed(engine, spans):
    post(engine, {"model": "tiny:static", "prompt": "5 + 5 =", "max_tokens": 2, "n": 2})
    root, children = family(spans)
    found = [(child.attributes["twinserve.choice"], child.name) for child in children]
    assert found == [(i, name) for i in range(2) for name in ("queue", "prefill", "decode")]
    assert root.attributes["gen_ai.request.choice.count"] == 2


@pytest.mark.parametrize("sampled", [True, False])
def test_the_callers_trace_goes_on_as_the_caller_decided(spans, sampled):
    parent = f"00-{TRACE}-{CALLER}-0{int(sampled)}"
    post(StubEngine(), {"model": "twin", "prompt": "sort these"}, traceparent=parent)
    found = spans.get_finished_spans()
    assert [f"{one.context.trace_id:032x}" for one in found] == [TRACE] * sampled
    assert [f"{one.parent.span_id:016x}" for one in found] == [CALLER] * sampled


def test_failures_are_marked_and_what_is_not_ours_is_not(spans):
    engine = StubEngine()
    post(engine, {"model": "nobody", "prompt": "a"})
    engine.fail = RuntimeError("broken")
    post(engine, {"model": "twin", "prompt": "a"})
    refused, failed = spans.get_finished_spans()
    assert (refused.status.status_code, failed.status.status_code) == (StatusCode.UNSET, StatusCode.ERROR)
    assert "gen_ai.request.model" not in refused.attributes, "the client's own words"


def test_spans_arrive_at_a_collector(monkeypatch):
    received: list[tuple[str, ExportTraceServiceRequest]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            received.append((self.path, ExportTraceServiceRequest.FromString(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            processor = traced.to_collector(f"http://127.0.0.1:{server.server_port}/v1/traces")
            exchange = Exchange("GET", "/health", {}, status=200)
            exchange.ended = exchange.began + 1.5
            traced.Spans(processor)(exchange)
            processor.shutdown()
        finally:
            server.shutdown()
            thread.join()
    ((path, request),) = received
    (resource,) = request.resource_spans
    assert path == "/v1/traces"
    service = {one.key: one.value.string_value for one in resource.resource.attributes}["service.name"]
    assert service == "twinserve"
    (span,) = resource.scope_spans[0].spans
    assert span.name == "GET /health"
    assert span.end_time_unix_nano - span.start_time_unix_nano == pytest.approx(1.5e9, rel=1e-3)


def test_without_an_endpoint_the_exporter_is_never_imported():
    code = (
        "import sys, serve.commands.run, serve.engine; from serve.api.app import create_app\n"
        "from serve.serversettings import ServerSettings\n"
        "create_app(object(), ServerSettings())\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exp'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_an_endpoint_without_the_package_is_one_clear_sentence(monkeypatch):
    monkeypatch.setenv("TWINSERVE_TRACING__ENDPOINT", "http://localhost:4318/v1/traces")
    assert read_settings().tracing.endpoint == "http://localhost:4318/v1/traces"
    monkeypatch.setattr(tracing, "EXPORTER", "opentelemetry.exporter.nowhere.at_all")
    with pytest.raises(InputError, match=r"tracing\.endpoint: .*pip install 'twinserve\[otel\]'") as caught:
        read_settings()
    assert "\n" not in str(caught.value)
