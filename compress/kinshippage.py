"""The section ``kinship`` of a report as what a page shows: coloured cells, sentences' facts, bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from compress.grouping import SHARE, UNRELATED
from compress.kinship import OUTSIDE

# Pairs that get a sentence.
WORST = 5
# Red and blue can be told apart by nearly everyone; numbers stay readable on the strongest.
BELOW, ABOVE, STRONGEST = "192, 80, 60", "43, 98, 168", 0.6
# Of bars, in pixels.
ROW, LETTER, WIDTH, WIDEST = 38, 8, 700, 74
# Bars narrower than this have no room for their own number.
ROOM = 40


def view(section: Mapping[str, Any]) -> dict[str, Any]:
    """What templates/kinship.html.j2 needs of the section, beside the section itself."""
    tasks: list[str] = section["tasks"]
    index = {task: i for i, task in enumerate(tasks)}
    shares = {part: {t: section["energy"][t][part] for t in tasks} for part in ("layers", "kinds")}
    errors = [loss["static"] for loss in section["loss"].values() if loss["static"] is not None]
    return {
        **section,
        "cosines": _heat(section["cosine"]),
        "conflicts": _heat(_around_half(section), reverse=True),
        "worst": [
            pair | {part: _lowest(section, part, index, *pair["tasks"]) for part in shares}
            for pair in section["interference"][:WORST]
            if pair["conflict"] or pair["cosine"]
        ],
        "unrelated": UNRELATED,
        "share": SHARE,
        "highest": max(1.0, *errors) if errors else 1.0,
        "charts": [
            {"title": title, **bars}
            for part, title in (("layers", "by layer"), ("kinds", "by kind of matrix"))
            if (bars := _bars(shares[part]))
        ],
    }


def _around_half(section: Mapping[str, Any]) -> list[list[float | None]]:
    """Conflicts less one half, what unrelated vectors have; None for pairs that never meet."""
    pairs = zip(section["conflict"], section["cosine"], strict=True)
    return [
        [c - 0.5 if c or cos else None for c, cos in zip(row, cosines, strict=True)] for row, cosines in pairs
    ]


def _heat(matrix: Sequence[Sequence[float | None]], *, reverse: bool = False) -> dict[str, Any]:
    """CSS colours of a symmetric matrix' cells, white at 0; ``limit`` is the value of the strongest. The
    diagonal does not count. ``reverse``: what is above 0 is red."""
    above, below = (BELOW, ABOVE) if reverse else (ABOVE, BELOW)
    values = [abs(v) for i, row in enumerate(matrix) for j, v in enumerate(row) if i != j and v is not None]
    limit = max(values, default=0.0) or 1.0

    def colour(value: float | None) -> str:
        strength = STRONGEST * min(1.0, abs(value or 0.0) / limit)
        return f"rgba({above if (value or 0.0) > 0 else below}, {strength:.2f})"

    ends = [f"rgba({end}, {STRONGEST})" for end in (below, above)]
    return {"limit": limit, "ends": ends, "colours": [[colour(v) for v in row] for row in matrix]}


def _lowest(
    section: Mapping[str, Any], part: str, index: Mapping[str, int], one: str, other: str
) -> tuple[str, float] | None:
    """Where a pair's cosine is lowest, of the layers or kinds that both change, and that cosine."""
    energy, cosines = section["energy"], section[part]
    found = {
        name: matrix[index[one]][index[other]]
        for name, matrix in cosines.items()
        if energy[one][part][name] and energy[other][part][name]
    }
    return min(found.items(), key=lambda item: item[1]) if found else None


def _bars(shares: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """One row of bars a task, on one scale, of what any of them changes: task -> part -> share."""
    # What is outside the layers would dwarf each of them; by kind it has bars of its own.
    labels = [
        part
        for part in next(iter(shares.values()))
        if part != OUTSIDE and any(row[part] for row in shares.values())
    ]
    if not labels:
        return {}
    left = LETTER * (max(map(len, shares)) + 2)
    step = min(WIDEST, WIDTH / len(labels))
    top = max(row[part] for row in shares.values() for part in labels)
    every = max(1, round(24 / step))
    return {
        "left": left,
        "right": round(left + step * len(labels)),
        "height": ROW * len(shares) + (64 if step >= ROOM else 24),
        "base": ROW * len(shares),
        "top": top,
        "bar": round(step * 0.8, 1),
        "numbers": step >= ROOM,
        "labels": [
            (round(left + step * (i + 0.4), 1), label) for i, label in enumerate(labels) if i % every == 0
        ],
        "rows": [
            {
                "task": task,
                "base": ROW * (n + 1),
                "bars": [
                    {
                        "label": label,
                        "share": row[label],
                        "x": round(left + step * i, 1),
                        "height": round((ROW - 14) * row[label] / top, 1),
                    }
                    for i, label in enumerate(labels)
                ],
            }
            for n, (task, row) in enumerate(shares.items())
        ],
    }
