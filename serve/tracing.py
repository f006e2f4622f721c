"""Whether requests are traced, and where to."""

from __future__ import annotations

from importlib.util import find_spec

from pydantic import BaseModel, ConfigDict, Field, field_validator

EXPORTER = "opentelemetry.exporter.otlp.proto.http.trace_exporter"


class TracingSettings(BaseModel):
    """Traces, by OpenTelemetry."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    endpoint: str | None = Field(default=None, pattern="^https?://.+")
    """Where spans are sent by OTLP/HTTP, as `http://localhost:4318/v1/traces`; unset is nowhere. Needs the
    extra `otel`; sampling, headers and the service's name are OpenTelemetry's own variables."""

    @field_validator("endpoint")
    @classmethod
    def _installed(cls, endpoint: str | None) -> str | None:
        if endpoint is not None and not _is_installed():
            raise ValueError("traces need OpenTelemetry: pip install 'twinserve[otel]'")
        return endpoint


def _is_installed() -> bool:
    try:
        return find_spec(EXPORTER) is not None
    except ModuleNotFoundError:  # one of the packages around it
        return False
