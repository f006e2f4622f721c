"""What methods that need prompts share: where these, or what was gathered from them, is found."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from compress.merging.method import Parameters


class CalibratedParameters(Parameters):
    """``prompts``: the folder with TASK.jsonl for every task; ``limit``: how many of each are used."""

    prompts: str | None = None
    limit: Annotated[int, Field(gt=0, strict=True)] = 128
