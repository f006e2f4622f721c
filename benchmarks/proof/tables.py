"""The results as Markdown tables, one function each, from the files under benchmarks/results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Facts = dict[str, Any]
STATICS = ("average", "task_arithmetic", "ties", "dare", "regmean", "tsv", "evolver")
NAMES = {
    "static": "the bundle's own shared base",
    "average": "average",
    "task_arithmetic": "task arithmetic",
    "ties": "TIES",
    "dare": "DARE",
    "regmean": "RegMean",
    "tsv": "TSV-Merge",
    "evolver": "Evolver",
    "dynamic": "dynamic, top-1",
    "top-2": "dynamic, top-2",
    "soft": "dynamic, soft",
    "oracle": "oracle-routed",
    "own": "own fine-tune",
    "random": "any expert",
}
# What an expert is the rest of, and so what stands under it.
BASES = {
    "pretrained": "over the pretrained base",
    "no split": "no shared base",
    "shared": "over the shared base",
}
BOUNDS = ("value", "low", "high")
SHOWN = ("base", *STATICS, "random", "dynamic", "top-2", "soft", "oracle", "own")


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column is left-aligned, and whose others are right-aligned."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def headline(facts: Facts) -> str:
    """Arms by tasks, of one bundle."""
    match = facts["exact_match"]
    tasks = [task for task in match["base"] if task != "average"]
    rows = []
    for arm in (arm for arm in SHOWN if arm in match):
        scores = [f"{100 * match[arm][task]:.0f}" for task in tasks]
        rows.append(
            [
                NAMES.get(arm, arm),
                *scores,
                f"**{100 * match[arm]['average']:.1f}**",
                interval(facts["normalised"][arm]),
                interval(facts["recovered"][arm]),
                f"{facts['storage'][arm]:.2f}",
            ]
        )
    head = ("exact match, %", *tasks, "average", "% of own [95 %]", "(s − base) / (own − base)", "× base")
    return markdown(head, rows)


def ahead(facts: Facts) -> str:
    """Dynamic minus the others, in points."""
    rows = [
        [NAMES.get(arm, arm), f"{own['value']:+.1f}", f"{own['low']:+.1f} … {own['high']:+.1f}"]
        for arm in (*STATICS, "top-2", "soft", "oracle", "own")
        if (own := facts["dynamic_minus"].get(arm))
    ]
    return markdown(("dynamic, top-1, minus", "points", "95 % interval"), rows)


def sizes(bundles: Mapping[str, Facts]) -> str:
    """One line a bundle."""
    rows = []
    for name, facts in bundles.items():
        best = max(STATICS, key=lambda arm: float(facts["exact_match"][arm]["average"]))
        gain = facts["dynamic_minus"][best]
        rows.append(
            [
                name,
                f"{facts['storage']['dynamic']:.3f}",
                interval(facts["normalised"]["dynamic"]),
                interval(facts["normalised"]["oracle"]),
                f"{100 * facts['router_accuracy']:.1f}",
                f"{NAMES[best]}, {facts['normalised'][best]['value']:.1f}",
                _spread([gain[key] for key in BOUNDS], "+"),
            ]
        )
    head = (
        *("bundle", "× base", "dynamic, % of own", "oracle-routed, % of own", "routed right, %"),
        *("best static, % of own", "dynamic − it, points"),
    )
    return markdown(head, rows)


def again(bundles: Mapping[str, Facts]) -> str:
    """One line a bundle, on prompts that no choice has seen."""
    rows = [
        [
            name,
            *(_spread(own["normalised"][arm]) for arm in ("dynamic", "soft", "oracle", "static")),
            _spread(own["dynamic minus static"], "+"),
        ]
        for name, own in bundles.items()
    ]
    best = ", ".join(dict.fromkeys(NAMES[own["static"]] for own in bundles.values()))
    head = ("bundle, % of own", "dynamic", "soft", "oracle-routed", best, "dynamic − it, points")
    return markdown(head, rows)


def ablation(facts: Facts) -> str:
    """Percent of own for top-1, by size and storage; a column a reference."""
    rows = [row for row in facts["rows"] if row["policy"] == "top-1"]
    references = list(dict.fromkeys(row["reference"] for row in rows))
    kept = {_size(row): row["kept"] for row in rows if row["reference"] == "pretrained"}
    cells = {(*_size(row), row["reference"]): row for row in rows}
    table = []
    for size, dtype in sorted({_size(row) for row in rows}, key=_by_size):
        own = [cells.get((size, dtype, reference)) for reference in references]
        shown = ["" if row is None else _spread(row["normalised"]) for row in own]
        energy = f"{100 * kept[size, dtype]:.0f}" if (size, dtype) in kept else ""
        table.append([size.replace("x", " ×"), dtype, energy, *shown])
    said = (f"{BASES.get(reference, reference)}, % of own" for reference in references)
    return markdown(("base and experts", "factors", "energy kept, %", *said), table)


def shared_gain(facts: Facts) -> str:
    """Points that taking deltas against the shared base gives top-1, by size; a column a storage."""
    rows = [row for row in facts["shared minus pretrained"] if row["policy"] == "top-1"]
    dtypes = list(dict.fromkeys(row["dtype"] for row in rows))
    cells = {_size(row): _spread(row["points"], "+") for row in rows}
    sizes = dict.fromkeys(size for size, _ in sorted(cells, key=_by_size))
    table = [[size.replace("x", " ×"), *(cells.get((size, dtype), "") for dtype in dtypes)] for size in sizes]
    return markdown(("over the shared base − over the pretrained, points", *dtypes), table)


def blends(facts: Facts) -> str:
    """Percent of own by policy, of the references that are bundles of their own."""
    rows = [row for row in facts["rows"] if row["reference"] in ("pretrained", "shared")]
    columns = list(dict.fromkeys((row["reference"], row["policy"]) for row in rows))
    cells = {(*_size(row), row["reference"], row["policy"]): row["normalised"][0] for row in rows}
    table = [
        [
            size.replace("x", " ×"),
            dtype,
            *(f"{cells[size, dtype, *c]:.1f}" if (size, dtype, *c) in cells else "" for c in columns),
        ]
        for size, dtype in sorted({_size(row) for row in rows}, key=_by_size)
    ]
    head = (f"{reference}, {policy}" for reference, policy in columns)
    return markdown(("base and experts", "factors", *head), table)


def _size(row: Facts) -> tuple[str, str]:
    return row["size"], row["dtype"]


def _by_size(key: tuple[str, str]) -> tuple[float, str]:
    return float(key[0].removesuffix("x")), key[1]


def number(facts: Facts) -> str:
    """Static and dynamic by the number of experts."""
    rows = [
        [
            count,
            f"{row['static']['average']:.1f}",
            f"{row['dynamic']['average']:.1f}",
            f"{row['own']['average']:.1f}",
            _spread(row["static"]["normalised"]),
            _spread(row["dynamic"]["normalised"]),
            f"{100 * row['router']:.1f}",
            f"{row['scaling']:g}",
        ]
        for count, row in facts.items()
    ]
    head = (
        *("experts", "static", "dynamic", "own", "static, % of own", "dynamic, % of own"),
        *("routed right, %", "static's scaling"),
    )
    return markdown(head, rows)


def misroutes(facts: Facts) -> str:
    """Exact match by the right expert's weight."""
    kinds = list(next(iter(facts["curve"].values())))
    rows = [[kind, *(f"{row[kind]:.0f}" for row in facts["curve"].values())] for kind in kinds]
    return markdown(("weight of the right expert", *(f"{float(w):g}" for w in facts["curve"])), rows)


def hard_or_soft(facts: Facts, kind: str = "look-alikes") -> str:
    """Hard minus soft, in points, by confidence and error."""
    by_error = facts["hard minus soft"][kind]
    errors = list(next(iter(by_error.values())))
    rows = [[f"{float(q):g}", *(f"{row[e]:+.1f}" for e in errors)] for q, row in by_error.items()]
    return markdown(("first choice's weight", *(f"{100 * float(e):g} % wrong" for e in errors)), rows)


def pairs(facts: Facts) -> str:
    """Two tasks in one prompt."""
    rows = [
        [
            arm,
            *(_spread(row[part]) for part in ("answers", "both", "first", "second")),
        ]
        for arm, row in facts["arms"].items()
    ]
    return markdown(("answered by", "answers given, %", "both, %", "first, %", "second, %"), rows)


def unseen(facts: Facts) -> str:
    """Right answers to prompts that no expert was trained for."""
    arms = list(facts["all"])
    rows = [
        [task, str(row["prompts"]), *(f"{row[arm]:.1f}" for arm in arms)]
        for task, row in facts["tasks"].items()
    ]
    rows.append(["**all**", str(facts["prompts"]), *(f"**{facts['all'][arm]:.1f}**" for arm in arms)])
    minus = [_spread(facts["minus base"][arm], "+") if arm != "base" else "" for arm in arms]
    rows.append(["minus base, points", "", *minus])
    return markdown(("right, %", "prompts", *arms), rows)


def statics(facts: Facts) -> str:
    """What was tried on development prompts, and what was chosen."""
    rows = []
    for method, own in facts.items():
        if "tried" not in own:
            continue
        tried = "; ".join(f"{_said(row['settings'])}: {row['dev']:.1f}" for row in own["tried"])
        rows.append([NAMES[method], _said(own["chosen"]), tried])
    return markdown(("merge", "chosen", "development prompts right, %"), rows)


def costs(facts: Facts) -> str:
    """Tokens a second and memory, as ratios to the base's."""
    rows = []
    for name, arms in facts.items():
        speed, memory = arms["base"]["tokens_per_second"], arms["base"]["peak_bytes"]
        for arm, own in arms.items():
            rows.append(
                [
                    f"{name}: {NAMES.get(arm, arm)}",
                    f"{own['tokens_per_second']:.1f}",
                    f"{own['tokens_per_second'] / speed:.2f}",
                    f"{own['peak_bytes'] / 1e9:.2f}",
                    f"{own['peak_bytes'] / memory:.2f}",
                ]
            )
    return markdown(("arm", "tokens/s", "× base's", "peak memory, GB", "× base's"), rows)


def interval(found: Mapping[str, float] | None) -> str:
    return "–" if found is None else _spread([found[key] for key in BOUNDS])


def _spread(values: Sequence[float], sign: str = "") -> str:
    """A figure with its interval; ``sign`` "+" for differences."""
    value, low, high = values
    return f"{value:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def _said(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value:g}" for key, value in settings.items()) or "as it is"


Table = Callable[[Any], str]
