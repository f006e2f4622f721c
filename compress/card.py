"""Model cards: where merged weights come from, and what the inputs' own cards say of licence and data."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment

from compress.bundle import library_versions
from compress.frontmatter import front_matter
from compress.recipe import Recipe

UNSAID = "not stated"


def merge_card(
    title: str,
    recipe: Recipe,
    folders: Mapping[str, Path],
    sha256: Mapping[str, str],
    *,
    merged: bool = True,
    made: str | None = None,
) -> str:
    """README.md of a merged model, or of the base that a merge is reached from.

    folders, sha256: of the base and every fine-tune, by ``base`` and task. made: Markdown in place of the
    sentence on the recipe's merge, where there is more to say.
    """
    sources = {"base": recipe.base, **{expert.task: expert.checkpoint for expert in recipe.experts}}
    rows = [
        {"name": name, "source": sources[name], "sha256": sha256[name], **_stated(folders[name])}
        for name in sources
    ]
    content = recipe.model_dump(exclude={"router", "exclusive"}, exclude_none=True)
    environment = Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    template = files("compress").joinpath("templates/model_card.md.j2").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        title=title,
        method=recipe.shared.merging,
        dtype=recipe.output.dtype,
        merged=merged,
        made=made,
        rows=rows,
        licences=sorted({row["licence"] for row in rows}),
        recipe=yaml.safe_dump(content, sort_keys=False).strip(),
        versions=library_versions(),
    )


def _stated(folder: Path) -> dict[str, str]:
    facts = front_matter(folder)
    licence = facts.get("license_name") or facts.get("license") or UNSAID
    data = facts.get("datasets") or UNSAID
    return {"licence": _cell(licence), "data": _cell(data)}


def _cell(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return " ".join(text.split()).replace("|", "\\|")
