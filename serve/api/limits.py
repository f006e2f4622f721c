"""Settings of what the endpoint takes on before it refuses."""

from __future__ import annotations

import limits
from pydantic import BaseModel, ByteSize, ConfigDict, Field, field_validator


class Limits(BaseModel):
    """What the endpoint takes on before it refuses"""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    queue: int = Field(default=256, ge=0)
    """Answers that may wait beyond the engine's slots; a request counts its prompts times its ``n``. Who
    comes when it is full gets a 429 that says when to come again."""
    answers: int | None = Field(default=None, ge=1)
    """Answers of one request, prompts times ``n``; unset is as many as slots and queue hold."""
    prompt_tokens: int | None = Field(default=None, ge=1)
    """Tokens of all prompts of one request; unset leaves each to the model's context."""
    body: ByteSize = Field(default=ByteSize(2 * 2**20), ge=1)
    """Bytes of a request's body, which is parsed between others' tokens."""
    body_timeout: float = Field(default=30.0, gt=0)
    """Seconds in which a body must have come."""
    rates: list[str] = []
    """Requests that one caller may send, as in ``["20/second", "600/minute"]``: all of them count, over a
    moving window. A caller is an API key or, without keys, an address."""
    concurrency: int | None = Field(default=None, ge=1)
    """Answers that one caller may have in the making."""
    stalled_reader: float = Field(default=60.0, gt=0)
    """Seconds after which a client that takes nothing of its response is disconnected."""

    @field_validator("rates")
    @classmethod
    def _parseable(cls, rates: list[str]) -> list[str]:
        for rate in rates:
            try:
                limits.parse(rate)
            except ValueError as error:
                raise ValueError(f"{rate!r} is no rate; write it as '600/minute'") from error
        return rates
