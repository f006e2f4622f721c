"""What clients send: OpenAI's request bodies, and ours where OpenAI has none."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from serve.api.unsupported import (
    HARMLESS,
    NEUTRAL_FOR_CHAT,
    NEUTRAL_FOR_COMPLETIONS,
    NEUTRAL_FOR_MESSAGES,
    without_unsupported,
)

MAX_STOPS = 4
# One body must not fill the queue for everybody else.
MAX_PROMPTS = 2048
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
    return stops


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


Text = Annotated[str, AfterValidator(_encodable)]
AnyPrompt = str | list[str] | list[int] | list[list[int]]
TokenId = Annotated[int, Field(ge=0)]


class Body(BaseModel):
    """A JSON object in which every field is known and has the right type, without conversions."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    harmless: ClassVar[Collection[str]] = ()

    @model_validator(mode="before")
    @classmethod
    def _known_fields(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        return without_unsupported(body, list(cls.model_fields), cls.neutral, cls.harmless)


class StreamOptions(Body):
    """include_usage: send a last chunk with token counts."""

    harmless = frozenset({"include_obfuscation"})
    include_usage: bool | None = None


class Generation(Body):
    """What completions and chat completions have in common.

    mixture: extension; task -> weight, overrides the router ({} = the shared base alone).
    """

    model: str
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-INT64, lt=INT64)] | None = None
    stop: Annotated[list[Text] | None, BeforeValidator(_stop, str | list[str] | None)] = None
    stop_token_ids: list[TokenId] | None = None
    ignore_eos: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    mixture: dict[str, float] | None = None


class CompletionRequest(Generation):
    """Body of POST /v1/completions."""

    neutral = NEUTRAL_FOR_COMPLETIONS
    harmless = HARMLESS
    prompt: Annotated[list[Text | list[int]], BeforeValidator(_prompts, AnyPrompt)]


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


class ChatRequest(Generation):
    """Body of POST /v1/chat/completions."""

    neutral = NEUTRAL_FOR_CHAT
    harmless = HARMLESS
    messages: list[Message]


class RouteRequest(Body):
    """Body of POST /v1/route: texts, or one conversation."""

    input: Annotated[list[Text] | None, BeforeValidator(_texts, str | list[str])] = None
    messages: list[Message] | None = None
