"""JSON Lines files of prompts, each bad line named by file and number."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from compress.errors import InputError
from router.query import user_turns

T = TypeVar("T")


def read_jsonl(path: Path, parse: Callable[[dict[str, Any]], T], example: str) -> list[T]:
    """``parse`` of every line's object; blank lines are skipped.

    Raises InputError for a file that cannot be read or holds no lines, and, beginning with
    ``file:line:``, for a line that is no JSON object or that ``parse`` refuses with InputError.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: the prompts cannot be read as UTF-8 text: {error}") from error
    found = []
    # Not splitlines(): U+2028 and its like may stand unescaped inside a JSON string.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                found.append(parse(_object(line, example)))
            except InputError as error:
                raise InputError(f"{path}:{number}: {error}") from error
    if not found:
        raise InputError(f"{path}: holds no prompts: write lines like {example}")
    return found


def prompt_of(content: dict[str, Any]) -> str | list[Any]:
    """``prompt`` (a text) or ``messages`` (a list) of one line, with words of the user in it.

    Raises InputError when it has neither, both, or nothing to route.
    """
    kinds = {"prompt": str, "messages": list}
    given = [key for key in kinds if key in content]
    if len(given) != 1:
        raise InputError('give either "prompt" or "messages"')
    key = given[0]
    prompt: str | list[Any] = content[key]
    if not isinstance(prompt, kinds[key]):
        raise InputError(f'"{key}" must be a {"string" if key == "prompt" else "list of messages"}')
    if not user_turns(prompt):
        raise InputError(f'"{key}" has no text to route: remove the line or write a prompt')
    return prompt


def _object(line: str, example: str) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not valid JSON ({error}): write one object a line, like {example}") from error
    if not isinstance(content, dict):
        raise InputError(f"not a JSON object: write one a line, like {example}")
    return content
