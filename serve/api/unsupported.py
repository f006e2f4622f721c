"""Fields of OpenAI's API that this server does not act on.

A field that would change the answer is accepted only with a value that asks for nothing; a field
that cannot change it is accepted with any value, because clients send it unasked.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any

from serve.api.validation import field_error

# Values that leave an answer as it is; None (null) always does.
NEUTRAL_FOR_COMPLETIONS: Mapping[str, tuple[Any, ...]] = {
    "suffix": ("",),
}
NEUTRAL_FOR_CHAT: Mapping[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "web_search_options": (),
    "moderation": (),
}
# What an assistant message carries when it comes straight out of an earlier response.
NEUTRAL_FOR_MESSAGES: Mapping[str, tuple[Any, ...]] = {
    "refusal": (),
    "annotations": ([],),
    "audio": (),
    "tool_calls": ([],),
    "tool_call_id": (),
    "function_call": (),
}
# What to do where leaving the field out is only half of it.
INSTEAD: Mapping[str, str] = {
    **dict.fromkeys(
        ("tools", "functions"),
        "describe the tools in a message, read the calls from the answer's text, and leave the field out",
    ),
    "suffix": "leave the field out: a prompt is continued, its middle cannot be filled in",
}
HARMLESS = frozenset(
    {
        "metadata",
        "store",
        "service_tier",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "parallel_tool_calls",
    }
)


def without_unsupported(
    body: Mapping[Any, Any],
    known: Collection[str],
    neutral: Mapping[str, tuple[Any, ...]],
    harmless: Collection[str],
) -> dict[Any, Any]:
    """``body`` with its ``known`` fields only.

    Raises a pydantic error naming the first field that is unknown, or that asks for something
    this server cannot do.
    """
    kept = {}
    for name, value in body.items():
        if name in known:
            kept[name] = value
        elif name in neutral:
            if not _is_neutral(value, neutral[name]):
                advice = INSTEAD.get(name, "leave the field out")
                raise field_error(
                    name, f"This value of '{name}' is not supported yet; {advice}.", "unsupported_value"
                )
        elif name not in harmless:
            near = difflib.get_close_matches(name, [*known, *neutral, *harmless], n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise field_error(name, f"Unknown field '{name}'.{hint}", "unknown_parameter")
    return kept


def _is_neutral(value: Any, accepted: tuple[Any, ...]) -> bool:
    # False == 0 in Python, yet a client that sends 0 for false has mistaken the field.
    return value is None or any(
        value == one and isinstance(value, bool) == isinstance(one, bool) for one in accepted
    )
