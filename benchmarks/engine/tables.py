"""The tables of docs/performance.md, from the result files.

python -m benchmarks.engine.tables
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path("benchmarks/results")
KINDS = ("same", "top1", "top2", "soft", "half")


def main() -> None:
    """Print all tables as Markdown."""
    for path in sorted(RESULTS.glob("engine_*.json")):
        facts: dict[str, Any] = json.loads(path.read_text())
        print(f"\n{path.stem}\n")
        if "figures" in facts:
            columns = [
                "traffic",
                "contender",
                "tokens/s",
                "first token, s",
                "between, p50",
                "p95",
                "peak, MB",
            ]
            _table(columns, _contenders(facts))
        elif facts.get("distinct"):
            _table(["experts", "static, ms", "top1, ms", "share"], _experts(facts["rows"]))
        elif "limits" in facts:
            _table(["batch", "prompt", "static, ms", *KINDS], _decode(facts["rows"]))
        else:
            print(json.dumps(facts, indent=2))


def _decode(rows: Sequence[dict[str, Any]]) -> Iterator[list[str]]:
    for row in rows:
        shares = [f"{row['share'][kind]:.2f} of {row['possible'][kind]:.2f}" for kind in KINDS]
        yield [str(row["batch"]), str(row["prompt"]), f"{row['seconds']['static'] * 1e3:.1f}", *shares]


def _experts(rows: Sequence[dict[str, Any]]) -> Iterator[list[str]]:
    for row in rows:
        seconds = row["seconds"]
        times = [f"{seconds[kind] * 1e3:.1f}" for kind in ("static", "top1")]
        yield [str(row["experts"]), *times, f"{row['share']['top1']:.2f}"]


def _contenders(facts: dict[str, Any]) -> Iterator[list[str]]:
    for kind, row in facts["figures"].items():
        for name, one in row.items():
            if "failure" in one:
                yield [kind, name, one["failure"], "", "", "", ""]
                continue
            between = one["inter_token"] or {"p50": 0.0, "p95": 0.0}
            peak = facts["peak_memory"].get(name)
            yield [
                kind,
                name,
                f"{one['tokens_per_second']:.1f}",
                f"{one['first_token']['p50']:.2f}",
                f"{between['p50'] * 1e3:.0f} ms",
                f"{between['p95'] * 1e3:.0f} ms",
                f"{peak / 1e6:.0f}" if peak else "",
            ]
    for name, why in facts["not_run"].items():
        yield ["", name, why, "", "", "", ""]


def _table(columns: Sequence[str], rows: Iterator[list[str]]) -> None:
    print(f"| {' | '.join(columns)} |")
    print(f"|{'---|' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
