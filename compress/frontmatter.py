"""The facts at the head of a model card."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml


def front_matter(folder: Path) -> dict[str, Any]:
    """The YAML at the head of a folder's README.md, as the hub's model cards have it; empty without."""
    card = folder / "README.md"
    if not card.is_file():
        return {}
    front = re.match(r"---\s*\n(.*?\n)---\s*(\n|$)", card.read_text(errors="replace"), re.DOTALL)
    if front is None:
        return {}
    try:
        facts = yaml.safe_load(front[1])
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}
