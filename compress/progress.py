"""How long work tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

# (stage, how many are done, of how many)
Progress = Callable[[str, int, int], None]
