"""The tables of docs/results.md and README.md, and the plots, made again from the result files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.proof import tables
from benchmarks.proof.bundles import BUNDLES, HEADLINE
from benchmarks.proof.plots import draw_all
from benchmarks.proof.zoo import RESULTS, ZOOS
from compress.errors import InputError

PAGES = (Path("docs/results.md"), Path("README.md"))
MARK = re.compile(r"(<!-- table: ([\w. -]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
SINGLE: dict[str, tables.Table] = {
    "again": tables.again,
    "ablation": tables.ablation,
    "shared gain": tables.shared_gain,
    "blends": tables.blends,
    "number": tables.number,
    "misroutes": tables.misroutes,
    "hard or soft": tables.hard_or_soft,
    "pairs": tables.pairs,
    "unseen": tables.unseen,
    "costs": tables.costs,
}
# Second tables of a step.
SHARED_WITH = {"hard or soft": "misroutes", "blends": "ablation", "shared gain": "ablation"}


def page() -> None:
    """Put every table between its marks and draw the plots. Raises InputError for a mark without a result."""
    made = all_tables()
    for path in PAGES:
        path.write_text(filled(path.read_text(encoding="utf-8"), made, path), encoding="utf-8")
    draw_all()


def filled(text: str, made: Mapping[str, str], path: Path) -> str:
    """``text`` with every table that is marked in it."""

    def table(match: re.Match[str]) -> str:
        if match[2] not in made:
            raise InputError(f"{path}: there is no result for the table {match[2]!r}; run its step first")
        return f"{match[1]}{made[match[2]]}\n{match[3]}"

    return MARK.sub(table, text)


def all_tables() -> dict[str, str]:
    """Every table that there are results for, by name."""
    made: dict[str, str] = {}
    bundles = {name: facts for name in HEADLINE if (facts := read(name))}
    for name, facts in bundles.items():
        made[f"headline {name}"] = tables.headline(facts)
        made[f"ahead {name}"] = tables.ahead(facts)
    for zoo in ZOOS:
        if own := {name: facts for name, facts in bundles.items() if BUNDLES[name][0] == zoo}:
            made[f"sizes {zoo}"] = tables.sizes(own)
        if facts := read(f"{zoo}_statics"):
            made[f"statics {zoo}"] = tables.statics(facts)
    for name, table in SINGLE.items():
        if facts := read(SHARED_WITH.get(name, name)):
            made[name] = table(facts)
    return made


def read(name: str) -> Any:
    """The figures of one step, None where it has not run."""
    path = RESULTS / f"proof_{name}.json"
    return json.loads(path.read_text()) if path.is_file() else None
