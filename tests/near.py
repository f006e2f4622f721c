"""Where JSON content can be damaged, for tests that read what is nearly right."""

from __future__ import annotations

from typing import Any


def places(content: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to all that is inside ``content``."""
    pairs: Any = ()
    if isinstance(content, dict):
        pairs = content.items()
    elif isinstance(content, list):
        pairs = enumerate(content)
    return [path for key, one in pairs for path in ((*at, key), *places(one, (*at, key)))]
