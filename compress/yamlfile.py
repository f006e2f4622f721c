"""YAML files that people write: recipes and settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from compress.errors import InputError


def read_mapping(path: Path, what: str, keys: list[str]) -> dict[str, Any]:
    """The mapping in a YAML file. what: what the file is called in errors; keys: what it may hold.

    Raises InputError, one sentence, for a file that cannot be read, is no YAML, or is no mapping.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: the {what} cannot be read: {error}") from error
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: a {what} is a mapping with the keys {', '.join(keys)}")
    return content
