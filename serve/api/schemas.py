"""What clients send: OpenAI's request bodies, and ours where OpenAI has none."""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from serve.api.unsupported import (
    HARMLESS,
    NEUTRAL_FOR_CHAT,
    NEUTRAL_FOR_COMPLETIONS,
    NEUTRAL_FOR_MESSAGES,
    without_unsupported,
)
from serve.api.validation import field_error

# OpenAI takes 4; harnesses send all strings of a task and the end of text.
MAX_STOPS = 16
# One body must not fill the queue for everybody else: prompts, and answers to them, at most.
MAX_PROMPTS = 2048
MAX_CHOICES = 128
MAX_LOGPROBS = 20
MAX_BIASES = 1024
MAX_MESSAGES = 2048
# Of one stop string: text that may become one is held back and looked through at every token.
MAX_STOP_CHARACTERS = 1000
INT64 = 2**63


def _encodable(text: str) -> str:
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError("it holds half of a surrogate pair, which is no character") from None
    return text


def _stop(value: Any) -> Any:
    stops = [value] if isinstance(value, str) else value
    if stops is None:
        return None
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise ValueError("it must be a string or a list of strings, none of them empty")
    if len(stops) > MAX_STOPS:
        raise ValueError(f"it may hold up to {MAX_STOPS} strings, not {len(stops)}")
    if any(len(stop) > MAX_STOP_CHARACTERS for stop in stops):
        raise ValueError(f"its strings may have up to {MAX_STOP_CHARACTERS} characters")
    return stops


def _logit_bias(value: Any) -> Any:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError("it must be an object of token ids and numbers")
    if len(value) > MAX_BIASES:
        raise ValueError(f"it may hold up to {MAX_BIASES} token ids, not {len(value)}")
    biases = {}
    for token, bias in value.items():
        # One spelling a number, or one token could have two biases.
        if not re.fullmatch("0|[1-9][0-9]{0,18}", token):
            raise ValueError('its names must be token ids, such as "50256"')
        if type(bias) not in (int, float) or not -100 <= bias <= 100:
            raise ValueError(f"the bias of token {token} must be a number from -100 to 100")
        biases[int(token)] = float(bias)
    return biases


def _logprobs(value: Any) -> Any:
    # Some clients send chat's false here.
    if value is None or value is False:
        return None
    if type(value) is not int or not 0 <= value <= MAX_LOGPROBS:
        raise ValueError(f"it must be a whole number from 0 to {MAX_LOGPROBS}")
    return value


def _one_or_many(value: Any) -> Any:
    return [value] if type(value) is int else value


def _prompts(value: Any) -> Any:
    """Any of OpenAI's four ways to write prompts as a list of texts or of token-id lists.

    A union type would refuse the rest in nine sentences; this does in one.
    """
    prompts = [value] if isinstance(value, str) or _is_ids(value) else value
    if prompts == [] or prompts == [[]]:
        raise ValueError("it is empty; send at least one token")
    if not isinstance(prompts, list) or not (
        all(isinstance(one, str) for one in prompts) or all(_is_ids(one) for one in prompts)
    ):
        raise ValueError(
            "it must be a string, a list of strings, a list of token ids or a list of lists of token ids"
        )
    if len(prompts) > MAX_PROMPTS:
        raise ValueError(f"it may hold up to {MAX_PROMPTS} prompts, not {len(prompts)}")
    return prompts


def _is_ids(value: Any) -> bool:
    # type(), because True is an instance of int.
    return isinstance(value, list) and all(type(token) is int for token in value)


def _at_most(most: int) -> BeforeValidator:
    """No list or object of more entries, before any of them is looked at: each bad one makes an error, and
    a body of millions would take gigabytes of them."""

    def check(value: Any) -> Any:
        if isinstance(value, list | dict) and len(value) > most:
            raise ValueError(f"it may hold up to {most} entries, not {len(value)}")
        return value

    return BeforeValidator(check)


def _texts(value: Any) -> Any:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(text, str) for text in items):
        raise ValueError("it must be a string or a list of strings")
    if not items or not all(items):
        raise ValueError("it is empty, or holds an empty string")
    if len(items) > MAX_PROMPTS:
        raise ValueError(f"it may hold up to {MAX_PROMPTS} strings, not {len(items)}")
    return items


def _content(value: Any) -> Any:
    """The text of a message; parts are joined as the router joins them."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise ValueError("it must be a string or a list of text parts")
    texts = []
    for index, part in enumerate(value):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text":
            raise ValueError(f"part {index} is of type {kind!r}, and only 'text' parts are supported yet")
        if set(part) != {"type", "text"} or not isinstance(part["text"], str):
            raise ValueError(f"part {index} must be {{'type': 'text', 'text': a string}}")
        texts.append(part["text"])
    return "".join(texts)


def _json_text(value: Any) -> str:
    if not isinstance(value, dict):
        raise ValueError("it must be an object")
    try:
        return json.dumps(value)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


Text = Annotated[str, AfterValidator(_encodable)]
AnyPrompt = str | list[str] | list[int] | list[list[int]]
TokenId = Annotated[int, Field(ge=0)]


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
    schema_: Annotated[str, BeforeValidator(_json_text, dict[str, Any]), Field(alias="schema")]
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

    mixture: extension; task -> weight, overrides the router ({} = the shared base alone). top_k,
    min_p, repetition_penalty: extensions, as vLLM has them. logit_bias: token id, a string in JSON ->
    added to the token's logit. response_format: also of completions, as vLLM has it.
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
    logit_bias: Annotated[dict[int, float] | None, BeforeValidator(_logit_bias, dict[str, float] | None)] = (
        None
    )
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    seed: Annotated[int, Field(ge=-INT64, lt=INT64)] | None = None
    stop: Annotated[list[Text] | None, BeforeValidator(_stop, str | list[str] | None)] = None
    stop_token_ids: Annotated[list[TokenId] | None, _at_most(MAX_BIASES)] = None
    ignore_eos: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    mixture: Annotated[dict[str, float] | None, _at_most(MAX_BIASES)] = None

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
    prompt: Annotated[list[Text | list[int]], BeforeValidator(_prompts, AnyPrompt)]
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    echo: bool | None = None
    route_tokens: Annotated[
        list[Annotated[int, Field(ge=1)]] | None,
        _at_most(MAX_PROMPTS),
        BeforeValidator(_one_or_many, int | list[int] | None),
    ] = None
    best_of: int | None = None
    logprobs: Annotated[int | None, BeforeValidator(_logprobs, int | Literal[False] | None)] = None

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
    content: Annotated[Text, BeforeValidator(_content, str | list[dict[str, str]])]
    name: Text | None = None

    def for_template(self) -> dict[str, str]:
        """The turn as chat templates read it."""
        role = "system" if self.role == "developer" else self.role
        named = {} if self.name is None else {"name": self.name}
        return {"role": role, "content": self.content, **named}


Messages = Annotated[list[Message], _at_most(MAX_MESSAGES)]


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

    input: Annotated[list[Text] | None, BeforeValidator(_texts, str | list[str])] = None
    messages: Messages | None = None
