"""Labelled prompts: where they are read from, and which of them can be learnt from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from compress.errors import InputError
from router.jsonl import prompt_of, read_jsonl
from router.query import user_turns

FEWEST_PROMPTS = 10


@dataclass(frozen=True)
class Prompt:
    """One labelled example: the user's last turn, those before it, and the task it belongs to."""

    task: str
    text: str
    earlier: tuple[str, ...] = ()

    @property
    def turns(self) -> tuple[str, ...]:
        return (*self.earlier, self.text)


def read_prompts(path: Path, tasks: Sequence[str]) -> list[Prompt]:
    """Labelled prompts of a JSON Lines file, ``{"task": …, "prompt" | "messages": …}`` a line; or of a
    folder with one such file a task, ``<task>.jsonl``, whose lines need not name it.

    Of a folder only the files of ``tasks`` are read. Raises InputError that starts with
    ``file:line:`` for a bad line.
    """
    if not path.is_dir():
        return read_jsonl(path, _prompt, '{"task": "NAME", "prompt": "TEXT"}')
    prompts: list[Prompt] = []
    for task in tasks:
        parse = partial(_prompt, default=task)
        prompts += read_jsonl(path / f"{task}.jsonl", parse, '{"prompt": "TEXT"}')
    return prompts


def _prompt(content: dict[str, Any], default: str | None = None) -> Prompt:
    task = content.get("task", default)
    if not isinstance(task, str) or not task:
        raise InputError('"task" must be the name of a task')
    if default is not None and task != default:
        raise InputError(f'"task" is {task!r} in the file of {default!r}: move the line to its own file')
    *earlier, last = user_turns(prompt_of(content))
    return Prompt(task, last, tuple(earlier))


def distinct(prompts: Sequence[Prompt], tasks: Sequence[str]) -> tuple[list[Prompt], dict[str, int]]:
    """Prompts of exactly one task, each once, and how many were dropped as duplicates or conflicts.

    Letter case and white space make no other prompt. Raises InputError for an unknown task, or one with
    fewer than 10 prompts left.
    """
    owners: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        if prompt.task not in tasks:
            raise InputError(f"a prompt names the task {prompt.task!r}; known: {', '.join(tasks)}")
        owners.setdefault(" ".join("\n".join(prompt.turns).split()).casefold(), []).append(prompt)
    kept = [own[0] for own in owners.values() if len({prompt.task for prompt in own}) == 1]
    for task in tasks:
        count = sum(prompt.task == task for prompt in kept)
        if count < FEWEST_PROMPTS:
            raise InputError(
                f"task {task!r} has {count} distinct prompts of its own: give at least {FEWEST_PROMPTS}"
            )
    conflicts = len(owners) - len(kept)
    return kept, {"duplicates": len(prompts) - len(owners), "conflicts": conflicts}
