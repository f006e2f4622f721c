"""Prompts that merging looks at: files to token ids, as the model itself would read them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compress.merger import Calibration
    from compress.recipe import Recipe

EXAMPLE = '{"text": "…"}, {"prompt": "…"} or {"messages": [{"role": "user", "content": "…"}]}'


def calibration_of(recipe: Recipe, relative_to: Path) -> Calibration | None:
    """Token ids of every task's prompts, where the recipe's method is to gather something from them.

    Raises InputError for a missing file or a bad line.
    """
    from compress.errors import InputError
    from compress.loading import load_tokenizer
    from compress.sources import resolve

    shared = recipe.shared
    if shared.merging.data is None or shared.parameters.prompts is None:
        return None
    given = Path(shared.parameters.prompts)
    folder = given if given.is_dir() else relative_to / given
    if not folder.is_dir():
        raise InputError(f"shared.prompts: {given}: no such folder; it holds TASK.jsonl for every task")
    tokenizer = load_tokenizer(resolve(recipe.base, relative_to))
    limit = shared.parameters.limit
    return {task: read_ids(folder / f"{task}.jsonl", tokenizer)[:limit] for task in recipe.tasks}


def read_ids(path: Path, tokenizer: Any) -> list[list[int]]:
    """Token ids of every line: a text as it is; a prompt or messages as a conversation, with its answer where
    there is one. Raises InputError naming the bad line."""
    from router.jsonl import read_jsonl

    return read_jsonl(path, lambda line: _ids(tokenizer, line), EXAMPLE)


def _ids(tokenizer: Any, line: dict[str, Any]) -> list[int]:
    from compress.errors import InputError
    from router.jsonl import prompt_of
    from serve.prompts import file_ids

    if "text" in line:
        if not isinstance(line["text"], str) or {"prompt", "messages"} & line.keys():
            raise InputError('"text" must be a string, and stand without "prompt" and "messages"')
        return list(tokenizer(line["text"])["input_ids"])
    prompt = prompt_of(line)
    ids = file_ids(tokenizer, [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt)
    answer = line.get("answer", "")
    if not isinstance(answer, str):
        raise InputError('"answer" must be a text')
    return ids + list(tokenizer(answer, add_special_tokens=False)["input_ids"])
