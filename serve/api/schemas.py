"""What clients send: OpenAI's request bodies, and ours where OpenAI has none."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from serve.api.fields import (
    MAX_CHOICES,
    MAX_LOGPROBS,
    MAX_MESSAGES,
    MAX_PROMPTS,
    Content,
    JsonText,
    LogitBias,
    Logprobs,
    Mixture,
    Prompts,
    RouteTokens,
    Stop,
    StopTokenIds,
    Text,
    Texts,
    at_most,
)
from serve.api.unsupported import (
    HARMLESS,
    NEUTRAL_FOR_CHAT,
    NEUTRAL_FOR_COMPLETIONS,
    NEUTRAL_FOR_MESSAGES,
    without_unsupported,
)
from serve.api.validation import field_error

INT64 = 2**63


class Body(BaseModel):
    """A JSON object in which every field is known and has the right type, without conversions."""

    # What clients send is not to end up in logs, where a traceback would show it.
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    harmless: ClassVar[Collection[str]] = ()

    @model_validator(mode="before")
    @classmethod
    def _known_fields(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        known = [field.alias or name for name, field in cls.model_fields.items()]
        return without_unsupported(body, known, cls.neutral, cls.harmless)


class StreamOptions(Body):
    """include_usage: send a last chunk with token counts."""

    harmless = frozenset({"include_obfuscation"})
    include_usage: bool | None = None


class JsonSchema(Body):
    """A schema by name. strict: accepted with any value, because every answer follows its schema.

    schema_: as JSON text, its keys in the client's order, which is the answer's too.
    """

    name: Annotated[Text, Field(pattern="^[a-zA-Z0-9_-]{1,64}$")]
    description: Text | None = None
    schema_: Annotated[JsonText, Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(Body):
    """What an answer must look like: any text, any JSON object, or JSON that follows a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @property
    def text(self) -> str | None:
        """The schema as JSON text; None for any text."""
        if self.type == "json_object":
            return '{"type":"object"}'
        return None if self.json_schema is None else self.json_schema.schema_

    @model_validator(mode="after")
    def _one_schema(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise field_error(
                "json_schema",
                "'json_schema' belongs to the type 'json_schema', and to no other.",
                "missing_required_parameter" if self.json_schema is None else "invalid_value",
            )
        return self


class Generation(Body):
    """What completions and chat completions have in common.

    mixture: extension; task -> weight, overrides the router ({} = the shared base alone, the pretrained one
    is called "base"). top_k, min_p, repetition_penalty: extensions, as vLLM has them. logit_bias: token id,
    a string in JSON -> added to the token's logit. response_format: also of completions, as vLLM has it.
    user, safety_identifier: whose request it is, for experiments; the first of them counts.
    """

    model: str
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    # Beyond these a product of penalty and logit could overflow.
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: LogitBias = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    seed: Annotated[int, Field(ge=-INT64, lt=INT64)] | None = None
    stop: Stop = None
    stop_token_ids: StopTokenIds = None
    ignore_eos: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    mixture: Mixture = None
    user: Text | None = None
    safety_identifier: Text | None = None

    @property
    def choices(self) -> int:
        """Answers to each prompt."""
        return 1 if self.n is None else self.n

    @property
    @abstractmethod
    def alternatives(self) -> int | None:
        """Likeliest tokens to report beside each of the answer; None = no log-probabilities at all."""

    @property
    def prompt_alternatives(self) -> int | None:
        """The same for the prompt's tokens."""
        return None


class CompletionRequest(Generation):
    """Body of POST /v1/completions.

    max_tokens: 0 only with ``echo``. route_tokens: extension; how many leading tokens the router may read of
    every prompt, or of each in turn, so that it does not see the text that is to be scored.
    """

    neutral = NEUTRAL_FOR_COMPLETIONS
    harmless = HARMLESS
    prompt: Prompts
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    echo: bool | None = None
    route_tokens: RouteTokens = None
    best_of: int | None = None
    logprobs: Logprobs = None

    @property
    def alternatives(self) -> int | None:
        return self.logprobs

    @property
    def prompt_alternatives(self) -> int | None:
        return self.logprobs if self.echo else None

    @property
    def readable(self) -> list[int | None]:
        """Leading tokens of each prompt that the router may read, None = all."""
        if self.route_tokens is None:
            return [None] * len(self.prompt)
        each: list[int | None] = [*self.route_tokens]
        return each * len(self.prompt) if len(each) == 1 else each

    @model_validator(mode="after")
    def _something_to_return(self) -> Self:
        if self.max_tokens == 0 and not self.echo:
            raise field_error(
                "max_tokens",
                "'max_tokens' must be greater than 0, or 'echo' true: nothing would be returned.",
                "invalid_value",
            )
        return self

    @model_validator(mode="after")
    def _as_many_as_prompts(self) -> Self:
        if self.route_tokens is not None and len(self.route_tokens) not in (1, len(self.prompt)):
            raise field_error(
                "route_tokens",
                f"'route_tokens' must be one number or one for each prompt; there are {len(self.prompt)}"
                f" prompts and {len(self.route_tokens)} numbers.",
                "invalid_value",
            )
        return self

    @model_validator(mode="after")
    def _bounded_choices(self) -> Self:
        if self.best_of not in (None, self.choices):
            raise field_error(
                "best_of",
                f"'best_of' must equal 'n', which is {self.choices}: every answer is returned.",
                "unsupported_value",
            )
        if len(self.prompt) * self.choices > MAX_PROMPTS:
            raise field_error(
                "n",
                f"{len(self.prompt)} prompts with {self.choices} answers each are more than"
                f" {MAX_PROMPTS} answers; send fewer prompts at once, or a smaller 'n'.",
                "invalid_value",
            )
        return self


class Message(Body):
    """One turn. OpenAI renamed "system" to "developer"; templates know the old name only."""

    neutral = NEUTRAL_FOR_MESSAGES
    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    name: Text | None = None

    def for_template(self) -> dict[str, str]:
        """The turn as chat templates read it."""
        role = "system" if self.role == "developer" else self.role
        named = {} if self.name is None else {"name": self.name}
        return {"role": role, "content": self.content, **named}


Messages = Annotated[list[Message], at_most(MAX_MESSAGES)]


class ChatRequest(Generation):
    """Body of POST /v1/chat/completions."""

    neutral = NEUTRAL_FOR_CHAT
    harmless = HARMLESS
    messages: Messages
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None

    @property
    def alternatives(self) -> int | None:
        return self.top_logprobs or 0 if self.logprobs else None

    @model_validator(mode="after")
    def _asked_for_logprobs(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise field_error("top_logprobs", "'top_logprobs' needs 'logprobs': true.", "invalid_value")
        return self


class RouteRequest(Body):
    """Body of POST /v1/route: texts, or one conversation."""

    input: Texts = None
    messages: Messages | None = None
