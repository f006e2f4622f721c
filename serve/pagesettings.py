"""The page that browsers get, and the prompts that it offers to try."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from compress.errors import InputError

if TYPE_CHECKING:
    from router.prompts import Prompt

# Of each task: a list to pick from is read by people.
MOST_EXAMPLES = 5


class Page(BaseModel):
    """The page at /, for people with a browser."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    enabled: bool = True
    """Whether there is a page. It needs no key to be loaded; what it asks of the API does."""
    examples: Path | None = None
    """Prompts that it offers, the first five of each task: lines of ``{"task": …, "prompt": …}``, or a folder
    with ``<task>.jsonl``, as routers learn from; unset offers none."""

    def prompts(self) -> list[Prompt]:
        """The examples, at most ``MOST_EXAMPLES`` of each task. Raises InputError for a file that cannot be
        read, beginning with ``file:line:`` where a line is at fault, and for a folder without one."""
        if self.examples is None:
            return []
        from router.prompts import read_prompts

        tasks = sorted(file.stem for file in self.examples.glob("*.jsonl"))
        if self.examples.is_dir() and not tasks:
            raise InputError(f"{self.examples}: page.examples holds no <task>.jsonl: name another folder")
        offered: dict[str, list[Prompt]] = {}
        for prompt in read_prompts(self.examples, tasks):
            own = offered.setdefault(prompt.task, [])
            # One box holds one turn, and earlier ones would go missing.
            if not prompt.earlier and len(own) < MOST_EXAMPLES:
                own.append(prompt)
        return [prompt for own in offered.values() for prompt in own]
