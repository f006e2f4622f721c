"""A refused request body as one sentence that names the field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import PydanticCustomError

SEND_AN_OBJECT = "Send a JSON object as the body, with the header Content-Type: application/json."
# pydantic's own words for these name Python classes.
OBJECT_EXPECTED = ("model_type", "model_attributes_type", "dict_type")


@dataclass(frozen=True)
class Refusal:
    """Why a body was refused. code: OpenAI's word for the kind of mistake."""

    message: str
    param: str | None
    code: str | None


def field_error(field: str, message: str, code: str) -> PydanticCustomError:
    """An error for a model validator to raise about one of the model's fields."""
    # pydantic cannot carry half a surrogate pair, which a field's name may hold.
    message, field = sendable(message), sendable(field)
    return PydanticCustomError("field", "{message}", {"message": message, "path": field, "code": code})


def refusal(error: Mapping[str, Any]) -> Refusal:
    """The first entry of a validation error's ``errors()`` in the words of this API.

    pydantic locates a field by ("body", "messages", 0, "role"); OpenAI's ``param`` is written
    ``messages[0].role``.
    """
    kind, context = error["type"], error.get("ctx", {})
    if kind == "json_invalid":
        position = error["loc"][-1]
        return Refusal(f"The body is not valid JSON: {context['error']} at character {position}.", None, None)
    # Of a type written as a union, pydantic adds which member it tried, in a word of its own.
    path = [part for part in error["loc"][1:] if not (isinstance(part, str) and part.startswith("function-"))]
    if kind == "field":
        param = _dotted([*path, context["path"]])
        return Refusal(context["message"], param, context["code"])
    if not path:
        return Refusal(SEND_AN_OBJECT, None, None)
    param = _dotted(path)
    if kind == "missing":
        return Refusal(f"The field '{param}' is missing.", param, "missing_required_parameter")
    if kind == "value_error":
        return Refusal(f"Invalid '{param}': {context['error']}.", param, "invalid_value")
    said = "It must be an object" if kind in OBJECT_EXPECTED else error["msg"]
    code = "invalid_type" if kind.endswith("_type") else "invalid_value"
    return Refusal(f"Invalid '{param}': {said[0].lower()}{said[1:]}.", param, code)


def sendable(text: str) -> str:
    """``text`` without lone surrogates: JSON may carry them in, UTF-8 cannot carry them out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _dotted(path: list[str | int]) -> str:
    """``["messages", 0, "role"]`` as ``messages[0].role``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text
