"""The table: every arm on the test prompts, bundle by bundle, and what the arms cost to serve."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from benchmarks.proof.bundles import BUNDLES, bundle
from benchmarks.proof.tuning import METHODS
from benchmarks.proof.zoo import RESULTS, ZOOS, Work, write
from serve.comparison import arm_costs, compare
from serve.comparisonreport import figures, print_comparison


def headline(name: str, work: Work) -> None:
    """``twinserve eval`` of one bundle, with every tuned static merge beside it."""
    path = RESULTS / f"proof_{name}.json"
    if path.is_file():
        return
    zoo = ZOOS[BUNDLES[name][0]]
    made = bundle(name)
    items = work.test(zoo.recipe.tasks)
    statics = {method: zoo.merged(method) for method in METHODS}
    result = compare(made, items, work.settings, work.bars.stage, statics=statics, answers=work.answers)
    print_comparison(name, result, {}, work.console)
    write(path, figures(result, {}))


def costs(name: str, work: Work) -> None:
    """Tokens a second and peak memory of base, static, dynamic and own. Wants a quiet machine."""
    path = RESULTS / "proof_costs.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    if name in found:
        return
    items = work.test(ZOOS[BUNDLES[name][0]].recipe.tasks)
    measured = arm_costs(bundle(name), items, work.settings, work.bars.stage)
    found[name] = {arm: asdict(cost) for arm, cost in measured.items()}
    write(path, found)
