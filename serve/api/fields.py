"""Single fields of request bodies: what they may hold, told in one sentence where it is something else."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

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


def at_most(most: int) -> BeforeValidator:
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
Texts = Annotated[list[Text] | None, BeforeValidator(_texts, str | list[str])]
Prompts = Annotated[list[Text | list[int]], BeforeValidator(_prompts, AnyPrompt)]
Content = Annotated[Text, BeforeValidator(_content, str | list[dict[str, str]])]
JsonText = Annotated[str, BeforeValidator(_json_text, dict[str, Any])]
Stop = Annotated[list[Text] | None, BeforeValidator(_stop, str | list[str] | None)]
StopTokenIds = Annotated[list[TokenId] | None, at_most(MAX_BIASES)]
LogitBias = Annotated[dict[int, float] | None, BeforeValidator(_logit_bias, dict[str, float] | None)]
Logprobs = Annotated[int | None, BeforeValidator(_logprobs, int | Literal[False] | None)]
Mixture = Annotated[dict[str, float] | None, at_most(MAX_BIASES)]
RouteTokens = Annotated[
    list[Annotated[int, Field(ge=1)]] | None,
    at_most(MAX_PROMPTS),
    BeforeValidator(_one_or_many, int | list[int] | None),
]
