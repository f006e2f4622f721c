"""The endpoint's log: lines for people or JSON for machines, on stderr, each with its request's id."""

from __future__ import annotations

import json
import logging
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator

# The request that the current task answers.
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


class LogSettings(BaseModel):
    """The log, on stderr."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    format: Literal["text", "json"] = "text"
    """Lines for people, or one JSON object a line."""
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"
    """The least that is logged; every request is a line at INFO. `TWINSERVE_LOG` sets it, too."""

    @field_validator("level", mode="before")
    @classmethod
    def _any_case(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value


def configure(settings: LogSettings) -> None:
    """Send all loggers' records to stderr in this form, in place of what was configured before."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if settings.format == "json" else TextLines())
    logging.basicConfig(level=settings.level, handlers=[handler], force=True)


class JsonLines(logging.Formatter):
    """One object a line: time (RFC 3339, UTC), level, logger, message, request_id where there is one,
    exception where there is one, and what the caller gave as ``extra={"fields": {...}}``."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": request_id.get(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps({key: value for key, value in line.items() if value is not None}, default=str)


class TextLines(logging.Formatter):
    """The same for people; an exception's traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {"request_id": request_id.get(), **_fields(record)}
        told = [f"{key}={value}" for key, value in fields.items() if value is not None]
        line = " ".join([f"{_time(record)} {record.levelname} {record.name}: {record.getMessage()}", *told])
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    return moment.replace("+00:00", "Z")


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = getattr(record, "fields", {})
    return fields
