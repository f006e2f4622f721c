"""Routes below /admin/experts: one expert more or less in what is served."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from compress.recipe import TASK_NAME
from serve.api.admin import Generations, Root, TheLive, switched
from serve.api.jail import jailed
from serve.commands.progress import no_bars
from serve.growing import derived, grow, labelled, shrink
from serve.live import Live

# What an earlier change put at the end of a bundle's name.
SUFFIX = re.compile(r"-g\d+$")

routes = APIRouter(prefix="/admin/experts")


class ExpertRequest(BaseModel):
    """A fine-tune of the served bundle's base. prompts: what its router is to learn from, if it does."""

    model_config = ConfigDict(extra="forbid")
    task: str = Field(pattern=f"^{TASK_NAME.pattern}$")
    checkpoint: str
    prompts: str | None = None
    expected_generation: int = Field(ge=1)


@routes.post("", response_model=Generations)
async def add(body: ExpertRequest, live: TheLive, root: Root) -> Response:
    """Serve the bundle with one expert more. What the others answer stays as it was."""
    checkpoint = jailed(root, body.checkpoint, "checkpoint")
    prompts = None if body.prompts is None else jailed(root, body.prompts, "prompts")

    def change(folder: Path) -> None:
        grow(folder, body.task, str(checkpoint), labelled(folder, body.task, prompts), no_bars())

    return await _changed(live, body.expected_generation, change)


@routes.delete("/{task}", response_model=Generations)
async def remove(task: str, expected_generation: int, live: TheLive) -> Response:
    """Serve the bundle without this expert. What the others answer stays as it was."""
    return await _changed(live, expected_generation, lambda folder: shrink(folder, task, no_bars()))


async def _changed(live: Live[Any], expected: int, change: Callable[[Path], object]) -> Response:
    served = live.current.bundle.resolve()
    target = _beside(served, live.upcoming)
    return await switched(live, target, expected, derived(served, target, change))


def _beside(served: Path, number: int) -> Path:
    """A free name for the bundle's next contents, in the same folder."""
    while (target := served.with_name(f"{SUFFIX.sub('', served.name)}-g{number}")).exists():
        number += 1
    return target
